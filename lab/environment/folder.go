// A file over HTTPS as a datastore gives it out, without the rest of a vCenter: what
// ./bench reads from.
package environment

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"vmferry.dev/lab/calls"
	"vmferry.dev/lab/vcenter"
)

func mainFolder(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("folder", flag.ContinueOnError)
	file := flags.String("file", "", "what is given out")
	dir := flags.String("dir", "", "for the certificate, and for folder.ready, which has the address in it")
	latency := flags.Duration("latency", 0, "before each answer")
	rate := flags.Float64("rate", 0, "MB/s of a connection; 0: unlimited")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *file == "" || *dir == "" || flags.NArg() > 0 {
		return fmt.Errorf("--file and --dir are needed")
	}
	issuer, err := newAuthority()
	if err != nil {
		return err
	}
	if _, err := issuer.issue(*dir, "folder"); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(*dir, "folder-ca.pem"), issuer.pem, 0o600); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: vcenter.FolderOf(*file, *latency, *rate), ConnContext: vcenter.PacedConnections,
		ReadHeaderTimeout: time.Minute}
	ended := make(chan error, 1)
	go func() {
		ended <- server.ServeTLS(listener, filepath.Join(*dir, "folder.crt"), filepath.Join(*dir, "folder.key"))
	}()
	ready := map[string]interface{}{"endpoint": listener.Addr().String(), "ca": filepath.Join(*dir, "folder-ca.pem")}
	if err := calls.WriteReady(filepath.Join(*dir, "folder.ready"), ready); err != nil {
		return err
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return server.Close()
	}
}

// The server alone, for tests that fill its datastores themselves.
package esxissh

import (
	"context"
	"errors"
	"flag"
	"os"
	"os/signal"
	"syscall"

	"vmferry.dev/lab/calls"
)

// Main is "vmferry-lab esxi-ssh"; it serves until SIGINT or SIGTERM.
func Main(args []string) error {
	flags := flag.NewFlagSet("vmferry-lab esxi-ssh", flag.ContinueOnError)
	dir := flags.String("dir", "", "an empty folder; what clients see as /vmfs/volumes is root/vmfs/volumes in it")
	ready := flags.String("ready-file", "", "file to write when the server answers: address, user, password_file, key, known_hosts")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *dir == "" || *ready == "" {
		return errors.New("esxi-ssh needs --dir and --ready-file")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	server, err := Start(*dir, nil)
	if err != nil {
		return err
	}
	defer server.Stop()
	if err := calls.WriteReady(*ready, server.Access); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

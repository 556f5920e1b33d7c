// vmferry-prove: is every byte of the frozen disks on the targets? A program of
// its own on purpose: it shares no code with the program that did the copying.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"vmferry.dev/lab/guest"
)

const usage = `usage: vmferry-prove [--json] REFERENCE=TARGET ...
       vmferry-prove [--json] --frozen VM --lab DIR [--snapshot ID] [--local DIR KEY=FILE ...]
       vmferry-prove --flip TARGET [--offset N]

Compares files or block devices byte by byte and by SHA-256. The reference's size
is the disk's; a longer target must go on in zeroes. With --frozen the references
are the lab's newest frozen disks of the VM, and the targets its volumes, or with
--local the files given for each disk key (a path is taken from DIR).
--flip changes one byte of a target, to see that the difference is found; with
--frozen, TARGET may be a disk's key.

Exit status: 0 all equal, 1 a difference, 2 trouble.
`

const (
	exitEqual     = 0
	exitDifferent = 1
	exitTrouble   = 2
)

type options struct {
	json     bool
	frozen   string
	lab      string
	snapshot string
	local    string
	flip     string
	offset   int64
	words    []string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, out, complaints io.Writer) int {
	o, err := parse(args, complaints)
	if errors.Is(err, flag.ErrHelp) {
		return exitEqual
	}
	if err == nil && o.flip != "" {
		err = flip(ctx, o, out)
		if err == nil {
			return exitEqual
		}
	}
	var pairs []Pair
	if err == nil {
		pairs, err = findPairs(ctx, o)
	}
	var results []*Result
	for _, pair := range pairs {
		if err != nil {
			break
		}
		if err = ctx.Err(); err != nil {
			break
		}
		var r *Result
		if r, err = compare(pair); err == nil {
			results = append(results, r)
			if !o.json {
				err = r.print(out)
			}
		}
	}
	if err == nil {
		return conclude(results, o.json, out, complaints)
	}
	fmt.Fprintf(complaints, "vmferry-prove: %v\n", err)
	return exitTrouble
}

func parse(args []string, complaints io.Writer) (*options, error) {
	o := &options{}
	flags := flag.NewFlagSet("vmferry-prove", flag.ContinueOnError)
	flags.SetOutput(complaints)
	flags.Usage = func() { fmt.Fprint(complaints, usage) }
	flags.BoolVar(&o.json, "json", false, "")
	flags.StringVar(&o.frozen, "frozen", "", "")
	flags.StringVar(&o.lab, "lab", os.Getenv("VMFERRY_LAB_DIR"), "")
	flags.StringVar(&o.snapshot, "snapshot", "", "")
	flags.StringVar(&o.local, "local", "", "")
	flags.StringVar(&o.flip, "flip", "", "")
	flags.Int64Var(&o.offset, "offset", -1, "")
	// Flags may stand after words, too.
	for len(args) > 0 {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		if args = flags.Args(); len(args) > 0 {
			o.words = append(o.words, args[0])
			args = args[1:]
		}
	}
	switch {
	case o.frozen != "" && o.lab == "":
		return nil, errors.New("--frozen needs --lab DIR")
	case o.frozen == "" && (o.local != "" || o.snapshot != ""):
		return nil, errors.New("--local and --snapshot go with --frozen")
	case o.flip == "" && o.offset >= 0:
		return nil, errors.New("--offset goes with --flip")
	case o.frozen != "" && o.local == "" && len(o.words) > 0:
		return nil, errors.New("with --frozen, KEY=FILE goes with --local DIR")
	case o.frozen == "" && o.flip == "" && len(o.words) == 0:
		return nil, errors.New("nothing to compare: give REFERENCE=TARGET (see --help)")
	}
	return o, nil
}

func findPairs(ctx context.Context, o *options) ([]Pair, error) {
	if o.frozen == "" {
		var pairs []Pair
		for _, word := range o.words {
			reference, target, err := halves(word)
			if err != nil {
				return nil, err
			}
			pairs = append(pairs, Pair{Disk: filepath.Base(reference), Reference: reference, Target: target})
		}
		return pairs, nil
	}
	var local map[string]string
	if o.local != "" {
		local = map[string]string{}
		for _, word := range o.words {
			key, path, err := halves(word)
			if err != nil {
				return nil, err
			}
			if !filepath.IsAbs(path) {
				path = filepath.Join(o.local, path)
			}
			if _, twice := local[key]; twice {
				return nil, fmt.Errorf("disk %s is given twice", key)
			}
			local[key] = path
		}
	}
	return frozenPairs(ctx, o.lab, o.frozen, o.snapshot, local)
}

func halves(word string) (string, string, error) {
	at := strings.IndexByte(word, '=')
	if at <= 0 || at == len(word)-1 {
		return "", "", fmt.Errorf("%q is no pair with = between", word)
	}
	return word[:at], word[at+1:], nil
}

func (r *Result) print(out io.Writer) error {
	verdict := "equal"
	if !r.Equal {
		verdict = "DIFFERENT"
	}
	fmt.Fprintf(out, "disk %s: %s, %d bytes compared\n  %s  %s\n  %s  %s\n", r.Disk, verdict, r.Bytes,
		r.ReferenceSHA256, r.Reference, r.TargetSHA256, r.Target)
	if r.Equal {
		return nil
	}
	fmt.Fprintf(out, "  %d blocks of 4096 bytes differ", r.DifferingBlocks)
	for i, span := range r.Ranges {
		if i == 5 {
			fmt.Fprintf(out, " and elsewhere")
			break
		}
		fmt.Fprintf(out, "%s %d+%d", map[bool]string{true: " at", false: ","}[i == 0], span.Start, span.Length)
	}
	fmt.Fprintln(out)
	for _, f := range r.Findings {
		fmt.Fprintf(out, "  disk %s, offset %d: %s\n", r.Disk, f.Offset, f.Text)
	}
	if more := r.DifferingBlocks - int64(len(r.Findings)); more > 0 {
		fmt.Fprintf(out, "  ... and %d more blocks\n", more)
	}
	return nil
}

func conclude(results []*Result, asJSON bool, out, complaints io.Writer) int {
	total, different := int64(0), 0
	for _, r := range results {
		total += r.Bytes
		if !r.Equal {
			different++
		}
	}
	// Nothing compared is no proof of anything.
	if len(results) == 0 {
		fmt.Fprintln(complaints, "vmferry-prove: nothing was compared")
		return exitTrouble
	}
	if asJSON {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		err := encoder.Encode(map[string]interface{}{"equal": different == 0, "bytes": total, "disks": results})
		if err != nil {
			fmt.Fprintf(complaints, "vmferry-prove: %v\n", err)
			return exitTrouble
		}
	} else if different == 0 {
		fmt.Fprintf(out, "equal: %d disks, %d bytes\n", len(results), total)
	} else {
		fmt.Fprintf(out, "different: %d of %d disks\n", different, len(results))
	}
	if different > 0 {
		return exitDifferent
	}
	return exitEqual
}

// flip changes one byte: at --offset, or inside the first stamped block, or in
// the middle.
func flip(ctx context.Context, o *options, out io.Writer) error {
	path := o.flip
	if o.frozen != "" {
		pairs, err := findPairs(ctx, o)
		if err != nil {
			return err
		}
		for _, pair := range pairs {
			if pair.Disk == o.flip {
				path = pair.Target
			}
		}
	}
	_, size, err := sized(path)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	at := o.offset
	if at < 0 {
		if at, err = worthFlipping(file, size); err != nil {
			return err
		}
	}
	if at >= size {
		return fmt.Errorf("%s has %d bytes, none at %d", path, size, at)
	}
	var octet [1]byte
	if _, err := file.ReadAt(octet[:], at); err != nil {
		return err
	}
	old := octet[0]
	octet[0] ^= 0x01
	if _, err := file.WriteAt(octet[:], at); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "flipped one byte of %s at offset %d: %02x is now %02x\n", path, at, old, octet[0])
	return err
}

func sized(path string) (string, int64, error) {
	file, size, err := open(path)
	if err != nil {
		return "", 0, err
	}
	file.Close()
	if size == 0 {
		return "", 0, fmt.Errorf("%s is empty: there is no byte to flip", path)
	}
	return path, size, nil
}

func worthFlipping(file *os.File, size int64) (int64, error) {
	buffer := make([]byte, chunkSize)
	for start := int64(0); start+guest.BlockSize <= size; start += chunkSize {
		piece := buffer
		if rest := size - start; rest < chunkSize {
			piece = piece[:rest]
		}
		if err := readFull(file, piece, start); err != nil {
			return 0, err
		}
		for i := 0; i+guest.BlockSize <= len(piece); i += guest.BlockSize {
			if _, look := guest.ReadStamp(piece[i:]); look == guest.Stamped {
				return start + int64(i) + guest.BlockSize/2, nil
			}
		}
	}
	return size / 2, nil
}

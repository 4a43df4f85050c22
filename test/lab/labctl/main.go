// Labctl keeps a network of lab machines from one command to the next.
//
//	labctl up NAME [--hosts N] [--names a,b] [--dir DIR]   make it so; prints it as JSON
//	labctl list [NAME] [--dir DIR]                         all networks, or one
//	labctl exec NAME MACHINE [--dir DIR] -- COMMAND...     as root in a machine; exits as it did
//	labctl down NAME [--dir DIR]                           remove every trace of it
//	labctl sweep [--dir DIR]                               remove what dead tests left
//	labctl image [--dir DIR]                               build the image ahead of time
//
// Up changes only what is missing: a network that is there is kept, machines
// that are off are turned on. Two commands on one network wait for each other.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/loopbackd/loopback/test/lab"
)

const usage = "usage: labctl up|list|exec|down|sweep|image ..."

// usageError is a mistake of the caller; the program then exits with 2.
type usageError struct{ text string }

func (u usageError) Error() string { return u.text }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code, err := program{}.run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "labctl: "+err.Error())
		code = 1
		if wrong := (usageError{}); errors.As(err, &wrong) {
			code = 2
		}
	}
	os.Exit(code)
}

type program struct {
	dir   string
	hosts int
	names string
}

func (p program) run(ctx context.Context, args []string) (code int, err error) {
	if len(args) == 0 {
		return 0, usageError{usage}
	}
	verb := args[0]
	words, command, err := p.parse(args[1:])
	if err != nil {
		return 0, err
	}
	want := map[string][2]int{"up": {1, 1}, "list": {0, 1}, "exec": {2, 2}, "down": {1, 1}, "sweep": {0, 0}, "image": {0, 0}}
	count, known := want[verb]
	if !known || len(words) < count[0] || len(words) > count[1] || (verb == "exec") != (len(command) > 0) {
		return 0, usageError{usage}
	}
	switch verb {
	case "up":
		return 0, p.up(ctx, words[0])
	case "list":
		return 0, p.list(words)
	case "exec":
		return p.exec(ctx, words[0], words[1], command)
	case "down":
		return 0, p.down(ctx, words[0])
	case "sweep":
		swept, err := lab.Sweep(ctx, p.dir)
		return 0, errors.Join(err, print(map[string]any{"removed": swept}))
	default:
		image, err := lab.Image(ctx, p.dir)
		if err != nil {
			return 0, err
		}
		return 0, print(map[string]any{"image": image})
	}
}

// parse takes flags before, between and after the words; what follows "--" is a command.
func (p *program) parse(args []string) (words, command []string, err error) {
	flags := flag.NewFlagSet("labctl", flag.ContinueOnError)
	flags.SetOutput(os.Stderr)
	flags.StringVar(&p.dir, "dir", "", "the lab's folder (.cache/lab of the repository)")
	flags.IntVar(&p.hosts, "hosts", 3, "how many machines: host-1, host-2 ...")
	flags.StringVar(&p.names, "names", "", "the machines' names, with commas; in place of --hosts")
	for i, each := range args {
		if each == "--" {
			args, command = args[:i], args[i+1:]
			break
		}
	}
	for len(args) > 0 {
		if err := flags.Parse(args); err != nil {
			return nil, nil, usageError{err.Error()}
		}
		if args = flags.Args(); len(args) > 0 {
			words, args = append(words, args[0]), args[1:]
		}
	}
	if p.hosts < 1 || p.hosts > 253 {
		return nil, nil, usageError{fmt.Sprintf("--hosts %d: want 1 to 253", p.hosts)}
	}
	return words, command, nil
}

func (p program) machineNames() []string {
	if p.names != "" {
		return strings.Split(p.names, ",")
	}
	var names []string
	for i := range p.hosts {
		names = append(names, fmt.Sprintf("host-%d", i+1))
	}
	return names
}

func (p program) up(ctx context.Context, name string) error {
	unlock, err := lab.Lock(ctx, p.dir, name)
	if err != nil {
		return err
	}
	defer unlock()
	network, err := lab.Open(p.dir, name)
	if err == nil && !network.Intact() {
		// This computer was restarted: only files are left.
		if err := network.Close(ctx); err != nil {
			return err
		}
		err = lab.ErrNotFound
	}
	if errors.Is(err, lab.ErrNotFound) {
		network, err = lab.New(ctx, name, lab.Options{Dir: p.dir, Keep: true})
	}
	if err != nil {
		return err
	}
	var absent []lab.MachineOptions
	for _, each := range p.machineNames() {
		machine, err := network.Machine(each)
		switch {
		case errors.Is(err, lab.ErrNotFound):
			absent = append(absent, lab.MachineOptions{Name: each})
		case err != nil:
			return err
		default:
			if err := machine.Start(ctx); err != nil {
				return err
			}
		}
	}
	if _, err := network.BootAll(ctx, absent...); err != nil {
		return err
	}
	return show(network)
}

func (p program) list(words []string) error {
	if len(words) == 1 {
		network, err := lab.Open(p.dir, words[0])
		if err != nil {
			return err
		}
		return show(network)
	}
	names, err := lab.List(p.dir)
	if err != nil {
		return err
	}
	items := []networkView{}
	for _, name := range names {
		network, err := lab.Open(p.dir, name)
		if err != nil {
			return err
		}
		view, err := describe(network)
		if err != nil {
			return err
		}
		items = append(items, view)
	}
	return print(map[string]any{"items": items})
}

func (p program) exec(ctx context.Context, network, name string, command []string) (code int, err error) {
	opened, err := lab.Open(p.dir, network)
	if err != nil {
		return 0, err
	}
	machine, err := opened.Machine(name)
	if err != nil {
		return 0, err
	}
	return machine.Run(ctx, lab.Command{Args: command, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
}

func (p program) down(ctx context.Context, name string) error {
	unlock, err := lab.Lock(ctx, p.dir, name)
	if err != nil {
		return err
	}
	defer unlock()
	network, err := lab.Open(p.dir, name)
	if errors.Is(err, lab.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return network.Close(ctx)
}

type networkView struct {
	Name         string        `json:"name"`
	HostAddress  netip.Addr    `json:"hostAddress"`
	HostAddress6 netip.Addr    `json:"hostAddress6"`
	Prefix       netip.Prefix  `json:"prefix"`
	Machines     []machineView `json:"machines"`
}

type machineView struct {
	Name     string     `json:"name"`
	Address  netip.Addr `json:"address"`
	Address6 netip.Addr `json:"address6"`
	On       bool       `json:"on"`
	Faults   lab.Faults `json:"faults"`
}

func describe(network *lab.Network) (networkView, error) {
	view := networkView{Name: network.Name(), HostAddress: network.HostAddress(), HostAddress6: network.HostAddress6(),
		Prefix: network.Prefix(), Machines: []machineView{}}
	machines, err := network.Machines()
	if err != nil {
		return view, err
	}
	for _, machine := range machines {
		faults, err := machine.Faults()
		if err != nil {
			return view, err
		}
		view.Machines = append(view.Machines, machineView{Name: machine.Name(), Address: machine.Address(),
			Address6: machine.Address6(), On: machine.On(), Faults: faults})
	}
	return view, nil
}

func show(network *lab.Network) error {
	view, err := describe(network)
	if err != nil {
		return err
	}
	return print(view)
}

func print(value any) error {
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

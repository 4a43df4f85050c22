// Bench measures Loopback side by side with its rivals, in the same run: `make bench`, or `make bench AREA=link`.
//
// A figure is the median of several rounds. In each round the product and its rival do their work one after the other,
// so that what else the machine does hits both. The product is the real loopbackd in a process of its own with an
// embedded database at full durability; agents speak the real protocol from this process. A rival is the plainest
// program that does the part of the work which cannot be left out, also in a process of its own: where a rival does less
// than the product (no identity, no second encryption, no audit log), its figure is a floor rather than something to
// beat, and its name says what it is. Processor time is that of the serving process, from /proc.
//
// Results go to bench/results.json and, as a table, to standard output. Whether a target is met is told, not asserted: a
// run on a busy machine is no failure.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/loopbackd/loopback/test/daemon"
)

// Result is one figure.
type Result struct {
	Area       string  `json:"area"`
	Name       string  `json:"name"`
	Unit       string  `json:"unit"`
	Value      float64 `json:"value"`
	Rival      string  `json:"rival"` // empty: none is known
	RivalValue float64 `json:"rivalValue"`
	Ratio      float64 `json:"ratio"` // value to rivalValue; 0 without a rival
	Target     float64 `json:"target"`
	Better     string  `json:"better"` // "lower" or "higher"
	Met        bool    `json:"met"`
	CPUSeconds float64 `json:"cpuSeconds"` // of the server, in all rounds
	Runs       int     `json:"runs"`
}

// figure gathers rounds.
type figure struct {
	Result
	values, rivals []float64
}

func (f *figure) add(value, rival float64, cpu time.Duration) {
	f.values = append(f.values, value)
	f.rivals = append(f.rivals, rival)
	f.CPUSeconds += cpu.Seconds()
}

func (f *figure) result() Result {
	r := f.Result
	r.Value, r.Runs = median(f.values), len(f.values)
	if r.Rival != "" {
		if r.RivalValue = median(f.rivals); r.RivalValue != 0 {
			r.Ratio = r.Value / r.RivalValue
		}
	}
	r.Met = r.Runs > 0 && (r.Better == "higher" && r.Value >= r.Target || r.Better == "lower" && r.Value <= r.Target)
	return r
}

func median[T cmp.Ordered](of []T) T {
	var none T
	if len(of) == 0 {
		return none
	}
	s := slices.Sorted(slices.Values(of))
	return s[len(s)/2]
}

func share[T cmp.Ordered](of []T, part float64) T {
	s := slices.Sorted(slices.Values(of))
	return s[min(len(s)-1, int(float64(len(s))*part))]
}

// bench is a run.
type bench struct {
	program string // loopbackd
	self    string // this program, which plays the rivals
	root    string // of the source tree
	dir     string // for what is thrown away
	rounds  int
	agents  int
	hosts   int
	fleets  int // agents of the area fleet
}

// areas in the order in which they run.
var areas = []struct {
	name string
	run  func(*bench, context.Context) ([]Result, error)
}{
	{"enrolment", (*bench).enrolment},
	{"link", (*bench).link},
	{"fleet", (*bench).fleet},
	{"storage", (*bench).storage},
	{"audit", (*bench).audit},
	{"install", (*bench).install},
	{"console", (*bench).console},
	{"access", (*bench).access},
	{"shell", (*bench).shell},
	{"exec", (*bench).exec},
}

const limit = 29 * time.Minute // for all areas

func main() {
	if len(os.Args) > 2 && os.Args[1] == "rival" {
		if err := playRival(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	b := &bench{}
	area := flag.String("area", "", "run only this `AREA`: enrolment, link, fleet, storage, audit, install, console, access, shell or exec")
	out := flag.String("out", filepath.Join("bench", "results.json"), "`FILE` for the results")
	flag.IntVar(&b.rounds, "rounds", 3, "rounds of each figure")
	flag.IntVar(&b.agents, "agents", 2000, "simulated agents")
	flag.IntVar(&b.fleets, "fleet", 19_000, "simulated agents of the area fleet; fewer where a process may have fewer descriptors")
	flag.IntVar(&b.hosts, "hosts", 50, "real machines to install on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	ctx, cancel := context.WithTimeout(ctx, limit)
	err := b.run(ctx, *area, *out)
	cancel()
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (b *bench) run(ctx context.Context, area, out string) (err error) {
	if area != "" && !slices.ContainsFunc(areas, func(a struct {
		name string
		run  func(*bench, context.Context) ([]Result, error)
	}) bool {
		return a.name == area
	}) {
		return fmt.Errorf("there is no area %q; there are enrolment, link, fleet, storage, audit, install, console, access and shell", area)
	}
	if b.root, err = os.Getwd(); err != nil {
		return err
	}
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	// Beside the results: a file system in memory would make durability look free.
	if b.dir, err = os.MkdirTemp(filepath.Dir(out), "out-*"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if b.dir, err = filepath.Abs(b.dir); err != nil {
		return err
	}
	if b.program, err = daemon.Build(ctx, b.dir); err != nil {
		return err
	}
	var results []Result
	var failures error
	for _, a := range areas {
		if area != "" && a.name != area {
			continue
		}
		began := time.Now()
		fmt.Fprintf(os.Stderr, "%s …\n", a.name)
		got, err := a.run(b, ctx)
		if err != nil {
			failures = errors.Join(failures, fmt.Errorf("%s: %w", a.name, err)) // what the others measure is not lost
		}
		for i := range got {
			got[i].Area = a.name
		}
		results = append(results, got...)
		fmt.Fprintf(os.Stderr, "%s took %s\n", a.name, time.Since(began).Round(time.Second))
	}
	encoded, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(out, append(encoded, '\n'), 0o644); err != nil {
		return err
	}
	table(results)
	return failures
}

func table(results []Result) {
	w := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "AREA\tFIGURE\tVALUE\tUNIT\tTARGET\tMET\tRATIO\tRIVAL\tCPU")
	for _, r := range results {
		sign, met, rival, ratio := "≥", "yes", "-", "-"
		if r.Better == "lower" {
			sign = "≤"
		}
		if !r.Met {
			met = "NO"
		}
		if r.Rival != "" {
			rival, ratio = fmt.Sprintf("%s (%s)", number(r.RivalValue), r.Rival), fmt.Sprintf("%.2f", r.Ratio)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s %s\t%s\t%s\t%s\t%.1fs\n", r.Area, r.Name, number(r.Value), r.Unit, sign, number(r.Target), met, ratio, rival, r.CPUSeconds)
	}
	_ = w.Flush() // to a terminal or a pipe: there is nobody left to tell
}

func number(v float64) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", v), "0"), ".")
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// access measures decisions, beside Cedar and Casbin, in the module that holds them apart from all that ships
// (tools/oracle). The rivals decide by 520 rules: at 100,000 they would take minutes. Casbin knows neither selectors nor time
// here, so it does less. Figures are processor time; decisions are those of 256 callers at once, out of 10,000 users.
func (b *bench) access(ctx context.Context) ([]Result, error) {
	run := exec.CommandContext(ctx, "go", "run", ".")
	run.Dir, run.Stderr = filepath.Join(b.root, "tools", "oracle"), os.Stderr
	out, err := run.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := run.Start(); err != nil {
		return nil, fmt.Errorf("starting the oracle: %w", err)
	}
	targets := map[string]float64{"decision at 100,000 bindings": 150, "allocations of a decision": 0, "decision at 520 bindings": 150,
		"who-can on 10,000 hosts, 100,000 bindings": 50, "who-can on 10,000 hosts, 520 bindings": 50, "a binding taken into the snapshot of 100,000": 50}
	var own []Result
	rivals := map[string]map[string]float64{}
	for in := json.NewDecoder(out); in.More(); {
		var f struct {
			Name, Engine, Unit string
			Value              float64
		}
		if err := in.Decode(&f); err != nil {
			return nil, fmt.Errorf("reading the oracle: %w", err)
		}
		if f.Engine != "loopback" {
			if rivals[f.Name] == nil {
				rivals[f.Name] = map[string]float64{}
			}
			rivals[f.Name][f.Engine] = f.Value
			continue
		}
		own = append(own, Result{Area: "access", Name: f.Name, Unit: f.Unit, Value: f.Value, Target: targets[f.Name], Better: "lower",
			Met: f.Value <= targets[f.Name], Runs: 7})
	}
	if err := run.Wait(); err != nil {
		return nil, fmt.Errorf("the oracle: %w", err)
	}
	var results []Result
	for _, r := range own {
		if len(rivals[r.Name]) == 0 {
			results = append(results, r)
		}
		for _, rival := range []string{"cedar-go", "casbin"} {
			if v, ok := rivals[r.Name][rival]; ok {
				r.Rival, r.RivalValue, r.Ratio = rival, v, r.Value/v
				results = append(results, r)
			}
		}
	}
	spread, err := b.spread(ctx)
	return append(results, spread...), err
}

// spread measures how long a grant takes to be in force, and its revocation to be refused and to cut streams, on three real replicas on
// PostgreSQL: test/replicas does it a hundred times, from the call until the slowest replica.
func (b *bench) spread(ctx context.Context) ([]Result, error) {
	dir, err := os.MkdirTemp("", "loopback-bench-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "figures.json")
	run := exec.CommandContext(ctx, "go", "test", "-count=1", "-run", "^TestGrantsAndTheirEndsReachEveryReplica$", "./test/replicas")
	run.Dir, run.Stdout, run.Stderr, run.Env = b.root, os.Stderr, os.Stderr, append(os.Environ(), "LOOPBACK_FIGURES="+file)
	if err := run.Run(); err != nil {
		return nil, fmt.Errorf("grants on three replicas: %w", err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var figures []struct {
		Name, Unit string
		Value      float64
		Runs       int
	}
	if err := json.Unmarshal(text, &figures); err != nil {
		return nil, err
	}
	var out []Result
	for _, f := range figures {
		out = append(out, Result{Area: "access", Name: f.Name, Unit: f.Unit, Value: f.Value, Target: 250, Better: "lower", Met: f.Value <= 250, Runs: f.Runs})
	}
	return out, nil
}

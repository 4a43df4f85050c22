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
	return results, nil
}

// Worker does an amount of CPU work while it holds memory, and reports what that took.
//
//	worker --kind integer|floating_point|sorting|memory --cpu-seconds S [--memory-mib M] [--scale N]
//	worker calibrate
//
// S are seconds of the reference CPU: an amount of work, not a time (package work). M is the resident set to reach, all
// included; what the program needs itself (about 4 MiB, 40 as WebAssembly, and 16 more for memory work) is its least.
// N divides S and M.
//
// Exit codes: 0 done; 1 failed; 2 wrong command line; 143 asked to stop by SIGTERM, with a report of what was done.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"opendt/worker/report"
	"opendt/worker/work"
)

const (
	pageBytes  = 4096
	marginMiB  = 1 // what a container is charged beyond its resident set
	terminated = 128 + int(syscall.SIGTERM)
)

type task struct {
	kind       work.Kind
	cpuSeconds float64
	memoryMiB  float64
}

func parse(arguments []string) (task, error) {
	flags := flag.NewFlagSet("worker", flag.ContinueOnError)
	kind := flags.String("kind", string(work.Integer), "kind of work: integer, floating_point, sorting, memory")
	cpuSeconds := flags.Float64("cpu-seconds", 0, "amount of work, in `seconds` of the reference CPU")
	memoryMiB := flags.Float64("memory-mib", 0, "resident set to reach, in `MiB`")
	scale := flags.Float64("scale", 1, "divide seconds and MiB by this `number`")
	if err := flags.Parse(arguments); err != nil {
		return task{}, err
	}
	if flags.NArg() > 0 {
		return task{}, fmt.Errorf("%q: want flags only", flags.Arg(0))
	}
	for name, value := range map[string]float64{"cpu-seconds": *cpuSeconds, "memory-mib": *memoryMiB, "scale": *scale} {
		if !(value >= 0) || math.IsInf(value, 1) {
			return task{}, fmt.Errorf("--%s %v: want a number >= 0", name, value)
		}
	}
	if *scale == 0 {
		return task{}, errors.New("--scale 0: want a number > 0")
	}
	return task{work.Kind(*kind), *cpuSeconds / *scale, *memoryMiB / *scale}, nil
}

// hold fills memory until the resident set is as large as asked.
func hold(memoryMiB float64) []byte {
	now, _ := report.ResidentMiB()
	missing := memoryMiB - now - marginMiB
	if missing <= 0 {
		return nil
	}
	held := make([]byte, int(missing*(1<<20)))
	for place := 0; place < len(held); place += pageBytes {
		held[place] = 1
	}
	return held
}

func run(asked task, isStopped *atomic.Bool) (report.Report, error) {
	started := time.Now()
	worker, err := work.New(asked.kind)
	if err != nil {
		return report.Report{}, err
	}
	held := hold(asked.memoryMiB)
	units := work.Units(asked.kind, asked.cpuSeconds)
	done := uint64(0)
	for ; done < units && !isStopped.Load(); done++ {
		worker.Do()
	}
	runtime.KeepAlive(held)
	_, peak := report.ResidentMiB()
	ratio := 1.0
	if units > 0 {
		ratio = float64(done) / float64(units)
	}
	return report.Report{
		Kind:                string(asked.kind),
		Arch:                runtime.GOARCH,
		ReferenceCPUSeconds: asked.cpuSeconds,
		StartedMs:           started.UnixMilli(),
		FinishedMs:          time.Now().UnixMilli(),
		CPUSeconds:          report.CPUSeconds(),
		MemoryPeakMiB:       peak,
		Checksum:            strconv.FormatUint(worker.Checksum(), 16),
		DoneRatio:           ratio,
	}, nil
}

// calibrate prints how many units of each kind this machine does in a second of its CPU: the most of 40 rounds, so that what else
// runs does not count; of memory the median, since now and then a round finds it in a cache that was left alone.
func calibrate() error {
	rates := map[work.Kind]float64{}
	for _, kind := range work.Kinds {
		worker, err := work.New(kind)
		if err != nil {
			return err
		}
		rounds := make([]float64, 40)
		for round := range rounds {
			const units = 50
			began := report.CPUSeconds()
			for range units {
				worker.Do()
			}
			rounds[round] = units / (report.CPUSeconds() - began)
		}
		slices.Sort(rounds)
		rates[kind] = rounds[len(rounds)-1]
		if kind == work.Memory {
			rates[kind] = rounds[len(rounds)/2]
		}
	}
	return json.NewEncoder(os.Stdout).Encode(rates)
}

func main() {
	debug.SetGCPercent(-1) // all is allocated at the beginning
	if len(os.Args) == 2 && os.Args[1] == "calibrate" {
		fail(calibrate(), 1)
		return
	}
	asked, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	fail(err, 2)
	var isStopped atomic.Bool
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() {
		<-stop
		isStopped.Store(true)
	}()
	made, err := run(asked, &isStopped)
	fail(err, 2)
	fail(made.Deliver(), 1)
	if made.DoneRatio < 1 {
		os.Exit(terminated)
	}
}

func fail(err error, code int) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(code)
	}
}

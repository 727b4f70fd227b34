// Wasmhost runs the worker's WebAssembly module, with the same arguments, report and exit codes as the worker itself.
//
//	wasmhost [--cache DIR] --compile       only compile, so that an image holds the result
//	wasmhost ARGUMENTS OF THE WORKER...
//
// The module is in the file worker.wasm beside this program, the compiled code in the folder cache beside it. A module cannot
// know what its machine spends on it: CPU seconds, memory peak and times in the report are this program's own.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
	"github.com/tetratelabs/wazero/sys"

	"opendt/worker/report"
)

const (
	terminated = 128 + int(syscall.SIGTERM)
	mostPages  = 2 << 30 >> 16 // pages of 64 KiB: 2 GiB
)

func folder() (string, error) {
	program, err := os.Executable()
	return filepath.Dir(program), err
}

// compiled compiles the module, or finds it compiled. A cache that cannot be used costs time, nothing else.
func compiled(ctx context.Context, where string, module []byte) (wazero.Runtime, wazero.CompiledModule, error) {
	// As much as a module can have, reserved but not touched: memory that grows would be copied, and held twice.
	config := wazero.NewRuntimeConfigCompiler().WithMemoryLimitPages(mostPages).WithMemoryCapacityFromMax(true)
	if cache, err := wazero.NewCompilationCacheWithDir(filepath.Join(where, "cache")); err == nil {
		runtime := wazero.NewRuntimeWithConfig(ctx, config.WithCompilationCache(cache))
		if code, err := runtime.CompileModule(ctx, module); err == nil {
			return runtime, code, nil
		}
		runtime.Close(ctx)
	}
	runtime := wazero.NewRuntimeWithConfig(ctx, config)
	code, err := runtime.CompileModule(ctx, module)
	return runtime, code, err
}

// withLessMemory takes what this program holds already from the memory that the module is asked to reach.
func withLessMemory(arguments []string) []string {
	now, _ := report.ResidentMiB()
	changed := append([]string{}, arguments...)
	for place, argument := range changed[:max(0, len(changed)-1)] {
		if argument == "--memory-mib" {
			if asked, err := strconv.ParseFloat(changed[place+1], 64); err == nil {
				changed[place+1] = strconv.FormatFloat(max(0, asked-now), 'f', -1, 64)
			}
		}
	}
	return changed
}

func run(ctx context.Context, arguments []string) (int, error) {
	started := time.Now()
	where, err := folder()
	if err != nil {
		return 1, err
	}
	module, err := os.ReadFile(filepath.Join(where, "worker.wasm"))
	if err != nil {
		return 1, err
	}
	runtime, code, err := compiled(ctx, where, module)
	if err != nil {
		return 1, fmt.Errorf("worker.wasm: %w", err)
	}
	defer runtime.Close(context.Background())
	if len(arguments) == 1 && arguments[0] == "--compile" {
		return 0, nil
	}
	debug.SetGCPercent(-1) // a collection would wait for compiled code, which cannot be interrupted, and hold all else up
	wasi_snapshot_preview1.MustInstantiate(ctx, runtime)
	// Code that looked at every turn of a loop whether to stop would be ten times slower: end it from outside.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() {
		<-stop
		fail(deliver(report.Report{Arch: "wasm"}, started))
		os.Exit(terminated)
	}()
	var said bytes.Buffer
	config := wazero.NewModuleConfig().WithArgs(append([]string{"worker"}, withLessMemory(arguments)...)...).
		WithStdout(&said).WithStderr(os.Stderr).WithSysWalltime().WithSysNanotime()
	_, err = runtime.InstantiateModule(ctx, code, config)
	var exit *sys.ExitError
	if errors.As(err, &exit) && exit.ExitCode() != 0 {
		return int(exit.ExitCode()), nil
	}
	if err != nil && exit == nil {
		return 1, err
	}
	var made report.Report
	if err := json.Unmarshal(said.Bytes(), &made); err != nil {
		io.Copy(os.Stdout, &said) // no report was asked for
		return 0, nil
	}
	return 0, deliver(made, started)
}

func deliver(made report.Report, started time.Time) error {
	made.StartedMs, made.FinishedMs = started.UnixMilli(), time.Now().UnixMilli()
	made.CPUSeconds = report.CPUSeconds()
	_, made.MemoryPeakMiB = report.ResidentMiB()
	return made.Deliver()
}

func main() {
	code, err := run(context.Background(), os.Args[1:])
	fail(err)
	os.Exit(code)
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
}

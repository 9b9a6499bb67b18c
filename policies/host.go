package policies

import (
	"context"
	"errors"
	"fmt"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/cloister-run/cloister/policies/module"
	"github.com/cloister-run/cloister/policies/rego"
)

// features is WebAssembly 2.0 without reference types: with them a module could grow a table
// outside of its linear memory, up to 32 GiB, and no limit of wazero's would stop it.
const features = api.CoreFeaturesV2 &^ api.CoreFeatureReferenceTypes

// wasiFunctions is WASI preview 1 (WASI snapshot-01, "Functions") as wazero offers it.
var wasiFunctions = []string{
	"args_get", "args_sizes_get", "clock_res_get", "clock_time_get", "environ_get",
	"environ_sizes_get", "fd_advise", "fd_allocate", "fd_close", "fd_datasync",
	"fd_fdstat_get", "fd_fdstat_set_flags", "fd_fdstat_set_rights", "fd_filestat_get",
	"fd_filestat_set_size", "fd_filestat_set_times", "fd_pread", "fd_prestat_dir_name",
	"fd_prestat_get", "fd_pwrite", "fd_read", "fd_readdir", "fd_renumber", "fd_seek",
	"fd_sync", "fd_tell", "fd_write", "path_create_directory", "path_filestat_get",
	"path_filestat_set_times", "path_link", "path_open", "path_readlink",
	"path_remove_directory", "path_rename", "path_symlink", "path_unlink_file", "poll_oneoff",
	"proc_exit", "proc_raise", "random_get", "sched_yield", "sock_accept", "sock_recv",
	"sock_send", "sock_shutdown",
}

// errnoNotSupported is WASI's errno "notsup".
const errnoNotSupported = 58

// newRuntime makes the runtime of one policy, so that nothing is shared between two.
func newRuntime(ctx context.Context, limits Limits, interruptible bool) (wazero.Runtime, error) {
	// The wall of wazero's own stands at twice the limit, for a module that asks for memory
	// beyond it is not seen by [memory], which holds the limit and tells that it did.
	pages := min(2*limits.MemoryBytes/module.PageBytes, 1<<16)
	runtime := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().
		WithCoreFeatures(features).
		WithMemoryLimitPages(uint32(pages)).
		WithDebugInfoEnabled(false).
		WithCloseOnContextDone(interruptible))
	builder := runtime.NewHostModuleBuilder(wasiModule)
	wasi_snapshot_preview1.NewFunctionExporter().ExportFunctions(builder)
	// wazero's table of descriptors is as long as its highest one: a policy that renumbered
	// a descriptor to 2³¹-1 would make it 16 GiB long.
	builder.NewFunctionBuilder().
		WithGoFunction(api.GoFunc(func(_ context.Context, stack []uint64) { stack[0] = errnoNotSupported }),
			[]api.ValueType{api.ValueTypeI32, api.ValueTypeI32}, []api.ValueType{api.ValueTypeI32}).
		Export("fd_renumber")
	_, err := builder.Instantiate(ctx)
	// A module imports from one of the two: its shape was checked.
	if err = errors.Join(err, rego.Offer(ctx, runtime)); err != nil {
		_ = runtime.Close(ctx)
		return nil, fmt.Errorf("offering functions: %w", err)
	}
	return runtime, nil
}

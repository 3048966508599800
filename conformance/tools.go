//go:build tools

// Package conformance keeps the suite in go.mod: `go mod tidy` drops what nothing imports.
package conformance

import (
	_ "github.com/opencontainers/runtime-tools/cmd/runtimetest"
	_ "github.com/opencontainers/runtime-tools/validation/util"
)

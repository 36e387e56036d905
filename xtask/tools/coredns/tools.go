//go:build tools

// Package tools pins the CoreDNS that the project's single-node Kubernetes runs.
package tools

import _ "github.com/coredns/coredns"

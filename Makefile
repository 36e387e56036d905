# Thin on purpose: what it calls is `cargo xtask`, and everything can be called without make.

.PHONY: help demo test bench image

help:
	@echo "make demo   edge, agent and a sample backend in one process, on http://127.0.0.1:8080"
	@echo "make test   get what the tests need, then everything a change has to pass"
	@echo "make bench  measure the tunnel beside its peers, and the operator, and write docs/benchmarks.md"
	@echo "make image  a container image of the binary, for the node of cargo xtask cluster up"

demo:
	cargo run --profile demo -p gatewright --no-default-features --features tunnel -- demo

test:
	cargo xtask tools
	cargo xtask ci

bench:
	cargo xtask tools bench
	cargo xtask bench tunnel --save
	cargo xtask bench routes --save
	cargo xtask bench route-change --save
	cargo xtask bench operator --save

image:
	cargo build --release -p gatewright
	cargo xtask cluster image gatewright:dev "$${CARGO_TARGET_DIR:-target}/release/gatewright"

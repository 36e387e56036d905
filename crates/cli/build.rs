//! Tells the linker to keep one of functions that are the same byte for byte. May not generate code.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Other linkers than the one that Rust brings for this target do not know the option, and a debug build
    // is better off with the names that its backtraces then keep.
    let target = std::env::var("TARGET").unwrap_or_default();
    let profile = std::env::var("PROFILE").unwrap_or_default();
    if target == "x86_64-unknown-linux-gnu" && profile == "release" {
        println!("cargo::rustc-link-arg-bins=-Wl,--icf=all");
    }
}

//! Tells rustc which kernel architecture the programs read registers of, and the linker how old the
//! kernels are that each object is for.
fn main() {
    if let Err(error) = aya_build::emit_bpf_target_arch_cfg() {
        panic!("cannot determine the target architecture: {error:#}");
    }
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "bpf") {
        // memset() and memmove() of a few words are written out: as calls they go byte by byte.
        println!("cargo::rustc-link-arg-bins=--disable-expand-memcpy-in-order");
        // Linux 4.4 has no loops and no calls between functions. Its instruction set is what the
        // linker emits when it is told of no processor.
        for flag in ["--unroll-loops", "--ignore-inline-never"] {
            println!("cargo::rustc-link-arg-bin=twtrace-perf={flag}");
        }
    }
}

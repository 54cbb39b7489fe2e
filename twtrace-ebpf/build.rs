//! Tells rustc which kernel architecture the programs read registers of.
fn main() {
    if let Err(error) = aya_build::emit_bpf_target_arch_cfg() {
        panic!("cannot determine the target architecture: {error:#}");
    }
}

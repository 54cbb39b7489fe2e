//! Walks over sockets: the iterators that find those in TIME_WAIT.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::{
    Btf, Ebpf,
    programs::{Iter, ProgramError, iter::IterLink},
};

use super::{KernelError, programs::brief};

/// What is walked over.
const SOCKETS: &str = "tcp";
/// The kernel's function that stands for such walks in its types.
pub const FUNCTION: &str = "bpf_iter_tcp";
/// The program that makes the kernel side follow the sockets present.
pub const FOLLOW: &str = "iter_tcp_follow";
/// The one that lists them.
pub const LIST: &str = "iter_tcp_list";

/// Loads the walks over sockets. At the start, though one may never be needed: later the right to
/// may be gone.
///
/// # Errors
/// [`KernelError::Inventory`] if the kernel has no iterator over TCP sockets (before 5.9).
pub fn load(ebpf: &mut Ebpf, btf: &Btf) -> Result<(), KernelError> {
    for name in [FOLLOW, LIST] {
        let loaded = walk(ebpf, name)?.load(SOCKETS, btf);
        loaded.map_err(|error| KernelError::Inventory(brief(&error)))?;
    }
    Ok(())
}

/// The program of one walk.
///
/// # Errors
/// [`KernelError::Incomplete`] if there is none of that name.
pub fn walk<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Iter, KernelError> {
    let program = ebpf.program_mut(name).ok_or(KernelError::Incomplete(name))?;
    program.try_into().map_err(|error: ProgramError| KernelError::Inventory(error.to_string()))
}

/// The loaded object, for whichever thread: each holds it for a system call or two.
#[derive(Clone)]
pub struct Loaded(Arc<Mutex<Ebpf>>);

impl Loaded {
    /// Of one object.
    pub fn new(ebpf: Ebpf) -> Self {
        Self(Arc::new(Mutex::new(ebpf)))
    }

    /// The object, for a moment.
    pub fn lock(&self) -> MutexGuard<'_, Ebpf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a walk over sockets ready to be opened.
    ///
    /// # Errors
    /// [`KernelError::Inventory`], [`KernelError::Incomplete`].
    pub fn open_walk(&self, name: &'static str) -> Result<IterLink, KernelError> {
        let mut ebpf = self.lock();
        let program = walk(&mut ebpf, name)?;
        let link = program.attach().and_then(|link| program.take_link(link));
        link.map_err(|error| KernelError::Inventory(brief(&error)))
    }
}

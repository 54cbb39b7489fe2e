//! Attaches and detaches single programs.

use aya::{
    Btf, Ebpf,
    programs::{BtfTracePoint, FExit, KProbe, Program, ProgramError, RawTracePoint},
};

use super::{
    BtfIndex,
    hooks::{self, Hook, Tracepoint},
    kprobes::Kprobes,
    object, preflight,
    symbols::Kallsyms,
};
use crate::attached::Backend;

/// Detaches programs, the last attached first.
pub fn detach(ebpf: &mut Ebpf, kprobes: &mut Kprobes, attached: &[&'static str]) {
    for name in attached.iter().rev() {
        kprobes.detach(name);
        let Some(program) = ebpf.program_mut(name) else { continue };
        let unloaded = match program {
            Program::FEntry(program) => program.unload(),
            Program::FExit(program) => program.unload(),
            Program::KProbe(program) => program.unload(),
            Program::RawTracePoint(program) => program.unload(),
            Program::BtfTracePoint(program) => program.unload(),
            Program::CgroupSock(program) => program.unload(),
            Program::CgroupSockAddr(program) => program.unload(),
            _ => Ok(()),
        };
        if let Err(error) = unloaded {
            tracing::warn!(program = name, %error, "cannot detach");
        }
    }
}

/// Attaches kprobes to what the kernel has of these hooks, by the list of its functions, and to what tells
/// of failed calls; answers the programs. How a connection fails, a socket's state tells if positions of
/// its members are known.
pub fn attach_kprobes(
    ebpf: &mut Ebpf,
    kprobes: &mut Kprobes,
    wanted: &'static [Hook],
    kallsyms: &Kallsyms,
    types_are_known: bool,
) -> Result<Vec<&'static str>, String> {
    let exists = |hook: &Hook| kallsyms.has(hook.function);
    if !hooks::ENTRY.iter().any(exists) {
        return Err("the kernel has no function inet_twsk_hashdance".to_owned());
    }
    let mut attached = Vec::new();
    let result = wanted.iter().chain(hooks::calls(types_are_known)).try_for_each(|hook| {
        for name in programs_for(Backend::Kprobe, hook, exists(hook).then_some(0))? {
            attach_one_kprobe(ebpf, kprobes, name, hook.function)?;
            attached.push(name);
        }
        Ok(())
    });
    let result = result.and_then(|()| {
        if types_are_known {
            attached.push(attach_state(ebpf, kprobes)?);
        }
        Ok(())
    });
    match result {
        Ok(()) => Ok(attached),
        Err(reason) => {
            detach(ebpf, kprobes, &attached);
            Err(reason)
        }
    }
}

/// Attaches what goes with kprobes and tells states of sockets; answers the program.
pub fn attach_state(ebpf: &mut Ebpf, kprobes: &mut Kprobes) -> Result<&'static str, String> {
    let hooks::State { point, tracepoint, function, kprobe } = hooks::STATE;
    match attach_point(ebpf, tracepoint, point, None) {
        Ok(()) => return Ok(tracepoint),
        Err(error) => tracing::debug!(point, "not attached: {}", brief(&error)),
    }
    attach_one_kprobe(ebpf, kprobes, kprobe, function)?;
    Ok(kprobe)
}

/// Loads and attaches one kprobe program; the error is one line.
pub fn attach_one_kprobe(
    ebpf: &mut Ebpf,
    kprobes: &mut Kprobes,
    name: &'static str,
    function: &str,
) -> Result<(), String> {
    let program = ebpf.program_mut(name).ok_or("the embedded object lacks a program")?;
    let mut attach = |program: &mut Program| -> Result<(), ProgramError> {
        let program: &mut KProbe = program.try_into()?;
        program.load()?;
        kprobes.attach(name, program, function)
    };
    attach(program).map_err(|error| kprobe_fault(function, &brief(&error)))
}

/// Why a kprobe cannot be made, and what to do where that is known.
fn kprobe_fault(function: &str, error: &str) -> String {
    format!("{function}: {error}{}{}", preflight::tracefs_hint(error), preflight::perf_hint())
}

/// Attaches the programs of one hook.
pub fn attach_hook(
    ebpf: &mut Ebpf,
    kprobes: &mut Kprobes,
    backend: Backend,
    hook: &Hook,
    (types, btf): (&BtfIndex<'_>, &Btf),
    attached: &mut Vec<&'static str>,
) -> Result<(), String> {
    let programs = programs_for(backend, hook, types.function_args(hook.function))?;
    for name in programs {
        if backend == Backend::Kprobe {
            attach_one_kprobe(ebpf, kprobes, name, hook.function)?;
        } else {
            attach_trampoline(ebpf, name, hook.function, btf)?;
        }
        attached.push(name);
    }
    Ok(())
}

/// The programs a hook takes, in the order they are attached; none for an optional function that
/// this kernel lacks. `arguments` is the function's number of them, if it exists.
fn programs_for(
    backend: Backend,
    hook: &Hook,
    arguments: Option<usize>,
) -> Result<Vec<&'static str>, String> {
    let Some(arguments) = arguments else {
        return if hook.optional {
            Ok(Vec::new())
        } else {
            Err(format!("the kernel has no function {}", hook.function))
        };
    };
    let mut programs = Vec::new();
    if backend == Backend::Fentry {
        programs.extend(hook.entry.map(|(fentry, _)| fentry));
        if let Some((fexit, _)) = hook.exit {
            programs.push(fexit.program(arguments).ok_or_else(|| {
                format!("{} has {arguments} arguments, as in no kernel known", hook.function)
            })?);
        }
    } else {
        programs.extend(hook.kprobe_entry);
        programs.extend(hook.entry.map(|(_, kprobe)| kprobe));
        programs.extend(hook.exit.and_then(|(_, kretprobe)| kretprobe));
    }
    Ok(programs)
}

/// Loads and attaches one fentry or fexit program; the error is one line.
fn attach_trampoline(ebpf: &mut Ebpf, name: &str, function: &str, btf: &Btf) -> Result<(), String> {
    let program = ebpf.program_mut(name).ok_or("the embedded object lacks a program")?;
    let attach = |program: &mut Program| -> Result<(), ProgramError> {
        match program {
            Program::FEntry(program) => {
                program.load(function, btf)?;
                program.attach().map(drop)
            }
            program => {
                let program: &mut FExit = program.try_into()?;
                program.load(function, btf)?;
                program.attach().map(drop)
            }
        }
    };
    attach(program).map_err(|error| format!("{function}: {}", brief(&error)))
}

/// Attaches to a tracepoint, with typed arguments if that can be had; answers the program.
pub fn attach_tracepoint(
    ebpf: &mut Ebpf,
    tracepoint: &Tracepoint,
    btf: &Btf,
) -> Result<&'static str, String> {
    let &Tracepoint { point, typed, untyped, .. } = tracepoint;
    match attach_point(ebpf, typed, point, Some(btf)) {
        Ok(()) => return Ok(typed),
        Err(error) => tracing::debug!(point, "no types of arguments: {}", brief(&error)),
    }
    match attach_point(ebpf, untyped, point, None) {
        Ok(()) => Ok(untyped),
        Err(error) => Err(format!("{point}: {}", brief(&error))),
    }
}

/// Attaches a program to a tracepoint, by the kernel's types if it is one that is told them.
fn attach_point(
    ebpf: &mut Ebpf,
    name: &str,
    point: &str,
    btf: Option<&Btf>,
) -> Result<(), ProgramError> {
    let missing = || ProgramError::InvalidName { name: name.to_owned() };
    let program = ebpf.program_mut(name).ok_or_else(missing)?;
    if let Some(btf) = btf {
        let program: &mut BtfTracePoint = program.try_into()?;
        program.load(point, btf)?;
        program.attach()?;
    } else {
        let program: &mut RawTracePoint = program.try_into()?;
        program.load()?;
        program.attach(point)?;
    }
    Ok(())
}

/// A program's error in one line; the verifier's log goes to the debug log.
pub fn brief(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let said = log.lines().rfind(|line| {
                !["processed", "verif", "stack depth"].iter().any(|noise| line.starts_with(noise))
                    && !line.is_empty()
            });
            tracing::debug!("the verifier said:\n{log}");
            match said {
                Some(said) => format!("load refused: {io_error}; {said}"),
                None => format!("load refused: {io_error}"),
            }
        }
        other => object::chain(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(function: &str) -> &'static Hook {
        hooks::ALL.iter().find(|hook| hook.function == function).unwrap()
    }

    #[test]
    fn a_function_the_kernel_lacks_is_named_unless_it_is_optional() {
        let missing = programs_for(Backend::Kprobe, hook("tcp_twsk_unique"), None);
        assert_eq!(missing, Err("the kernel has no function tcp_twsk_unique".to_owned()));
        assert_eq!(programs_for(Backend::Kprobe, hook("tcp_abort"), None), Ok(Vec::new()));
    }

    #[test]
    fn a_kernel_without_tracefs_is_told_how_it_is_mounted() {
        let told = kprobe_fault("tcp_time_wait", "`tracefs`: tracefs not found");
        assert!(told.contains("mount -t tracefs tracefs /sys/kernel/tracing"), "{told}");
        assert!(!kprobe_fault("tcp_time_wait", "Operation not permitted").contains("tracefs"));
    }

    #[test]
    fn the_fexit_program_fits_the_number_of_arguments() {
        let programs = |arguments| {
            programs_for(Backend::Fentry, hook("tcp_timewait_state_process"), Some(arguments))
        };
        assert_eq!(programs(4), Ok(vec!["fentry_state_process", "fexit_state_process_4"]));
        let error = programs(9).unwrap_err();
        assert_eq!(error, "tcp_timewait_state_process has 9 arguments, as in no kernel known");
    }

    #[test]
    fn a_kretprobe_comes_after_the_kprobe_that_keeps_its_arguments() {
        assert_eq!(
            programs_for(Backend::Kprobe, hook("tcp_twsk_unique"), Some(3)),
            Ok(vec!["kprobe_twsk_unique", "kretprobe_twsk_unique"])
        );
    }
}

//! twtrace explains why TIME_WAIT sockets pile up.
//!
//! Data flows one way, and a module uses only what stands above it here:
//!
//! | module | what it is |
//! |---|---|
//! | `units`, `text`, `files` | values with a unit; text of others, made safe to show; files opened with care |
//! | `event` | records of the kernel programs, decoded |
//! | `owner` | whose sockets: units, containers and pods, of the paths of control groups |
//! | `path` | the rules: what blocks an entry, which path an end took |
//! | `failures` | calls that failed, by place, cause and program |
//! | `attached`, `totals`, `needs`, `trust` | how the programs are attached and what they cannot see so; what they counted; what a figure needs to be known; what makes counts less than exact, in one list |
//! | `peer`, `track` | rows; live sockets |
//! | `filter` | expressions: which sockets; in the kernel as far as it can, else in `aggregate` |
//! | `names` | names for peers, for whoever looks at them |
//! | `aggregate` | the one place that folds events into rows and live sockets |
//! | `host` | facts of the host, by namespace |
//! | `audit` | the kernel's counters against what its programs counted |
//! | `origin` | what a session is of: where its inputs come from, and the inputs |
//! | `diagnose` | findings: pure rules over counts, history and facts; `docs/findings/` |
//! | `what_if` | the port spaces of what happened, replayed under other settings |
//! | `summary`, `agent` | the read model, immutable; what a daemon knows of itself |
//! | `chronicle` | a session over time: samples of summaries, moments worth a mark |
//! | `view` | renderers over any writer: no clock, no terminal, no kernel |
//! | `kernel` | the only user of aya, and the only place with `unsafe` |
//! | `ticks` | a timer of the kernel, at a wake-up a tick |
//! | `feed`, `recording` | what flows in from the kernel; the one encoding of it, in files and from daemons |
//! | `pipeline` | one run: inputs in, summaries out |
//! | `config`, `cli` | the settings; what a user may type |
//! | `session`, `daemon` | one run for a user; the host's own, and who asks it |
//! | `manual` | help, man pages and completions from the definition of the command line |
//!
//! A view never reads the kernel, and only `kernel` and the lowest calls of `host` need privileges:
//! everything else is reached by tests with records made up or recorded.
#![deny(unsafe_code)]

pub mod agent;
pub mod aggregate;
pub mod attached;

pub mod audit;
pub mod chronicle;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod diagnose;
pub mod event;
pub mod failures;
pub mod feed;
pub mod files;
pub mod filter;
pub mod host;
pub mod kernel;
pub mod manual;
pub mod names;
pub mod needs;
pub mod origin;
pub mod owner;
pub mod path;
pub mod peer;
pub mod pipeline;
pub mod recording;
pub mod session;
pub mod summary;
pub mod text;
pub mod ticks;
pub mod totals;
pub mod track;
pub mod trust;
pub mod units;
pub mod view;
pub mod what_if;

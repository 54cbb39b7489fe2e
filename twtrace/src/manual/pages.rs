//! What each command's help and man page say beside its options.

/// The text that belongs to one command.
pub struct Page {
    /// The command; empty for twtrace itself.
    pub command: &'static str,
    /// Command lines, and what each is for.
    pub examples: &'static [(&'static str, &'static str)],
    /// What running it costs; empty where nothing is run.
    pub overhead: &'static str,
    /// What is printed, and what it means.
    pub fields: &'static [(&'static str, &'static str)],
    /// Whether it takes a filter expression.
    pub has_filter: bool,
    /// Exit codes.
    pub exit: &'static [(&'static str, &'static str)],
}

const EXIT: &[(&str, &str)] = &[
    ("0", "Done, also when ended by Ctrl-C."),
    ("1", "It failed; stderr says why."),
    ("2", "Wrong usage."),
];

const OVERHEAD: &str = "\
A small program runs in the kernel for each socket that enters TIME_WAIT and once more when it ends; \
nothing in the kernel ever waits for twtrace. A full buffer loses events, which are counted and \
shown, and never totals.

fentry costs least and is tried first, then kprobes. Through tracepoints a program runs for every \
timer of the system, about 50 ns each time (measured on Linux 6.18), some twelve times a connection.

Memory is bounded by --max-live, --max-peers and --buffer, whatever the traffic does. \
--no-ends watches entries only, at the lowest cost.";

const ROWS: &[(&str, &str)] = &[
    (
        "PEER",
        "address:port where this host is the client, the address alone where it is the server.",
    ),
    (
        "ENTRIES/s, NOW",
        "Entries a second over the last minute, and in the last interval (full screen).",
    ),
    ("ENTERED", "Sockets that entered TIME_WAIT, or FIN_WAIT2 when the peer had not closed yet."),
    ("LIVE", "Sockets there now, those present at the start included."),
    (
        "FAST",
        "Ended before 2MSL: reused by a connect(), replaced by a new SYN, or recycled (before 4.12).",
    ),
    ("2MSL", "Sat out the whole time."),
    (
        "OTHER",
        "Killed by a RST, ended by ss -K, purged with the namespace, timed out in FIN_WAIT2, unknown.",
    ),
    ("ENDS", "The last three as a bar (full screen)."),
    ("TS", "Share of the entries on whose connections the peer sent timestamps."),
    ("WHY, WHY NOT FAST", "What closes the fast path, most frequent first."),
];

const FINDINGS: &[(&str, &str)] = &[
    ("TWnnn", "Name of the finding, which never changes; its page is in docs/findings/."),
    ("So, Do, Do not", "What it leads to and when, what to do, and what only seems to help."),
    ("Margins", "How far each limit is: ports of the worst peer, buckets, connection tracking."),
];

/// All pages.
pub const PAGES: &[Page] = &[
    Page {
        command: "",
        examples: &[
            ("sudo twtrace watch", "every peer, live"),
            ("sudo twtrace diagnose", "what is wrong, and what to do"),
            ("sudo twtrace peer 10.2.0.2:8080", "all about one peer"),
            ("sudo twtrace watch --for 30s -o json", "one JSON document"),
            ("sudo twtrace record /tmp/a.twt --for 60s", "a file for a colleague"),
            ("twtrace replay /tmp/a.twt", "who needs no privileges"),
        ],
        overhead: OVERHEAD,
        fields: &[],
        has_filter: false,
        exit: EXIT,
    },
    Page {
        command: "watch",
        examples: &[
            ("sudo twtrace watch", "the full screen; ? shows its keys"),
            ("sudo twtrace watch dst 10.2.0.0/16", "only some sockets"),
            ("sudo twtrace watch 'dport = :443 and not timestamps'", "in the syntax of ss"),
            ("sudo twtrace watch --by subnet --plain", "a simple table"),
            ("sudo twtrace watch --events", "one line an event"),
            ("sudo twtrace watch --for 30s -o json", "for programs: docs/schema/"),
            ("sudo twtrace watch -- ab -n 1000 http://10.2.0.2/", "while a command runs"),
        ],
        overhead: OVERHEAD,
        fields: ROWS,
        has_filter: true,
        exit: &[
            ("0", "Done, also when ended by Ctrl-C."),
            ("1", "It failed; stderr says why."),
            ("2", "Wrong usage."),
            (
                "other",
                "With -- CMD, that of the command; 128 and the number of the signal that ended it.",
            ),
        ],
    },
    Page {
        command: "peer",
        examples: &[
            ("sudo twtrace peer 10.2.0.2:8080", "until Ctrl-C, then all there is"),
            ("sudo twtrace peer 10.2.0.2 --for 60s -o json", "each of its ports, for programs"),
        ],
        overhead: OVERHEAD,
        fields: &[
            ("ends", "How its sockets ended."),
            ("why the fast path is closed", "The first reason that holds, socket by socket."),
            (
                "takeovers refused",
                "Times connect() met one of them and could not take its port over.",
            ),
            ("lifetimes", "From entry to end; percentiles are within 3.2 %, the longest is exact."),
        ],
        has_filter: false,
        exit: EXIT,
    },
    Page {
        command: "record",
        examples: &[
            ("sudo twtrace record /tmp/a.twt --for 60s", "a minute of everything"),
            ("sudo twtrace record a.twt --rotate 64MiB --keep 8", "at most 512 MiB, for days"),
        ],
        overhead: OVERHEAD,
        fields: &[],
        has_filter: false,
        exit: EXIT,
    },
    Page {
        command: "export",
        examples: &[
            ("twtrace export a.twt --format parquet -o a.parquet", "for DuckDB, ClickHouse, Spark"),
            ("twtrace export a.twt --format csv dport = :443", "some of it, for a spreadsheet"),
        ],
        overhead: "",
        fields: &[],
        has_filter: true,
        exit: EXIT,
    },
    Page {
        command: "replay",
        examples: &[
            ("twtrace replay a.twt", "as it happened, on the full screen"),
            ("twtrace replay a.twt --speed 10", "ten times as fast"),
            ("twtrace replay a.twt -o json not timestamps", "the final answer, for programs"),
        ],
        overhead: "",
        fields: ROWS,
        has_filter: true,
        exit: EXIT,
    },
    Page {
        command: "diagnose",
        examples: &[
            ("sudo twtrace diagnose", "after 15 s"),
            ("sudo twtrace diagnose --for 2m -o json", "for programs"),
            ("twtrace diagnose --replay a.twt", "what was wrong then"),
        ],
        overhead: OVERHEAD,
        fields: FINDINGS,
        has_filter: false,
        exit: EXIT,
    },
    Page {
        command: "explain",
        examples: &[
            ("sudo twtrace explain 10.2.0.2:8080", "since when it has sent no timestamps"),
            ("twtrace explain 10.2.0.2 --replay a.twt", "the same from a recording"),
        ],
        overhead: OVERHEAD,
        fields: FINDINGS,
        has_filter: false,
        exit: EXIT,
    },
    Page {
        command: "report",
        examples: &[
            ("sudo twtrace report a.html --for 60s", "what happens in the next minute"),
            ("twtrace report a.html --replay /tmp/a.twt", "what happened in a recording"),
            ("twtrace report a.html --since 2h", "what the daemon remembers"),
        ],
        overhead: OVERHEAD,
        fields: &[],
        has_filter: false,
        exit: EXIT,
    },
    Page {
        command: "what-if",
        examples: &[
            ("twtrace what-if --replay /tmp/a.twt", "what would have helped"),
            ("twtrace what-if --replay /tmp/a.twt --set tcp_tw_reuse=1", "one of them"),
            ("sudo twtrace what-if --for 60s -o json", "of the next minute"),
        ],
        overhead: OVERHEAD,
        fields: &[
            ("SETTINGS", "What would have been different; as it was: nothing."),
            ("FAILED", "connect() calls, and bind() of port 0, that would have found no port."),
            ("MOST HELD", "Ports of the fullest port space that would have been held at a time."),
            ("OF", "That port space: source address and peer, or source address alone."),
        ],
        has_filter: false,
        exit: EXIT,
    },
    Page {
        command: "daemon",
        examples: &[
            ("sudo twtrace daemon", "as the settings say; docs/DAEMON.md"),
            ("twtrace daemon --check-config", "what is wrong with them, if anything"),
        ],
        overhead: OVERHEAD,
        fields: &[],
        has_filter: false,
        exit: EXIT,
    },
    Page {
        command: "config",
        examples: &[("twtrace config --print-default", "a file to begin with")],
        overhead: "",
        fields: &[],
        has_filter: false,
        exit: EXIT,
    },
    Page {
        command: "check",
        examples: &[
            ("sudo twtrace check", "WARNING from 70 %, CRITICAL from 90 %"),
            ("sudo twtrace check --warn 50 --crit 80 --for 10s", "earlier, and looking longer"),
        ],
        overhead: OVERHEAD,
        fields: &[
            ("worst", "Share of the limit that is nearest, per cent: taken, or wanted in the end."),
            ("time_wait", "TIME_WAIT sockets by the kernel's own count."),
            ("entered_rate", "Entries a second."),
            ("overflow", "Connections closed without a TIME_WAIT socket for want of a bucket."),
            ("lost", "Events that were lost; the figures are lower bounds then."),
        ],
        has_filter: false,
        exit: &[
            ("0", "OK: below both thresholds."),
            ("1", "WARNING: above the first threshold, or a failure is concluded and not seen."),
            (
                "2",
                "CRITICAL: a program fails now; or above the second threshold, unless that is 90 or \
                 more and what is left is known to do at the rate that has lasted.",
            ),
            ("3", "UNKNOWN: it could not be found out, or wrong usage."),
        ],
    },
    Page {
        command: "support",
        examples: &[
            ("sudo twtrace support twtrace.tar.gz", "ten seconds, then a list of what is in it"),
            ("sudo twtrace support t.tar.gz --attach kprobe", "of what did not attach"),
        ],
        overhead: OVERHEAD,
        fields: &[
            ("CONTENTS.txt", "What is in the bundle, and what is not and why."),
            ("version.txt", "The program, its commit and its kernel programs."),
            ("host.txt", "The kernel, what it allows, and what the process may."),
            ("twtrace.toml", "The daemon's settings."),
            (
                "daemon-status.json",
                "How the daemon is, if one answers; daemon-metrics.txt as well.",
            ),
            ("answer.txt", "How it attached and why not better, the table, and what is wrong."),
            ("summary.json", "All counts and the audit; addresses of all peers."),
            ("recording.twtrace", "Every socket of this time, for twtrace replay."),
            ("log.txt", "What was said meanwhile, as by -vv."),
        ],
        has_filter: false,
        exit: EXIT,
    },
];

//! Compares `clustered-sessions` with its peers, and with the least that each operation takes.
//!
//! ```sh
//! cargo run --release --manifest-path benches/compare/Cargo.toml -- [--rounds N] [SECTION ...]
//! ```
//!
//! prints one table. Sections are selected by a part of their name; without any, all are measured.
//! The two sides of a comparison take turns within one run, so that a busy machine slows both, and
//! the figures are medians of the rounds.
//!
//! `scale` prints what nodes cost one Redis server as they become more, and `scale cluster` what
//! they cost the masters of a cluster. `instructions SCENARIO N` sends N requests and measures
//! nothing: see `instructions.sh`.

mod alloc;
mod app;
mod data;
mod instructions;
mod measure;
mod nodes;
mod rows;
mod scale;
mod table;

use std::env::args;
use std::process::exit;

use crate::rows::{Context, SECTIONS};

const USAGE: &str =
    "arguments: [--rounds N] [SECTION ...], or: scale [cluster], or: instructions SCENARIO N";
/// Rounds of each comparison, unless an argument gives another number.
const ROUNDS: usize = 11;

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

fn main() {
    let mut args = args().skip(1).peekable();
    if args.next_if(|arg| arg == "instructions").is_some() {
        let (Some(scenario), Some(Ok(requests))) = (args.next(), args.next().map(|n| n.parse()))
        else {
            usage()
        };
        return instructions::run(&scenario, requests);
    }
    if args.next_if(|arg| arg == "scale").is_some() {
        return match args.next().as_deref() {
            None => scale::run(&rows::runtime()),
            Some("cluster") => scale::run_cluster(&rows::runtime()),
            Some(_) => usage(),
        };
    }
    let (mut rounds, mut selected) = (ROUNDS, Vec::new());
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--rounds" => match args.next().map(|n| n.parse()) {
                Some(Ok(number)) if number > 0 => rounds = number,
                _ => usage(),
            },
            arg if arg.starts_with('-') => usage(),
            _ => selected.push(arg),
        }
    }
    let is_selected = |name: &str| {
        selected.is_empty() || selected.iter().any(|part| name.contains(part.as_str()))
    };
    let sections: Vec<_> = SECTIONS.iter().filter(|(name, _)| is_selected(name)).collect();
    if sections.is_empty() {
        let names: Vec<_> = SECTIONS.iter().map(|(name, _)| *name).collect();
        eprintln!("no such section; there are: {}", names.join(", "));
        exit(2);
    }
    let context = Context::new(rounds);
    println!("{}", table::HEAD);
    for (name, measure) in sections {
        eprintln!("measuring {name} …");
        for row in measure(&context) {
            println!("{row}");
        }
    }
}

fn usage() -> ! {
    eprintln!("{USAGE}");
    exit(2)
}

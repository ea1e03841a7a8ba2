# Shortcuts; `.ci/run` and `tests/run.sh` do not depend on `just`.

# Lists the recipes.
default:
    @just --list

# Runs everything that a change must pass.
ci:
    .ci/run

# Runs all tests, and the models of interleavings; `just test redis_roles` runs those that match.
test *args:
    sh tests/run.sh {{args}}

# Runs the tests that need no server: a quick check.
quick:
    cargo test --all-features --lib --test memory --test repository

# Runs one seed of a simulation again, such as `just seed 42 no_history`.
seed number test:
    SEED={{number}} cargo test --all-features --test simulation {{test}} -- --nocapture

# Formats and lints.
lint:
    cargo fmt --all
    cargo clippy --all-targets --all-features -- -D warnings

# Builds the documentation as docs.rs does.
doc *args:
    RUSTC_BOOTSTRAP=1 RUSTDOCFLAGS="--cfg docsrs" cargo doc --no-deps --features messagepack,metrics,testing,tower-sessions-0-14,tower-sessions-0-15 --target-dir target/docsrs {{args}}

# Prints the comparison with peers; `just compare request` measures one section.
compare *args:
    cargo run --release --manifest-path benches/compare/Cargo.toml -- {{args}}

# Runs the benchmarks.
bench *args:
    cargo bench --all-features {{args}}

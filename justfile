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

# Builds the documentation as docs.rs does; needs a nightly toolchain.
doc *args:
    RUSTDOCFLAGS="--cfg docsrs" cargo +nightly doc --no-deps --features metrics,testing {{args}}

# Runs the benchmarks.
bench *args:
    cargo bench --all-features {{args}}

//! The cost that encryption, compression and MessagePack add to a write and to a cache miss: over
//! the backend in memory, next to plain `serde_json`, for sessions of three sizes.
//!
//! Run it with `cargo bench --features messagepack --bench codec`.
#![allow(clippy::print_stdout, reason = "a benchmark prints its results")]
#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::fmt;
use std::hint::black_box;

use clustered_sessions::backend::{Backend as _, Content};
use clustered_sessions::{
    ClusterConfig, DataFormat, Encryption, MemoryBackend, Secret, SessionConfig, SessionId,
    SessionStore,
};
use divan::{Bencher, bench};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

fn main() {
    for case in cases() {
        let Session { runtime, backend, id, .. } = case.session();
        let Content::Payload(payload) =
            runtime.block_on(backend.load(&id)).unwrap().unwrap().content
        else {
            unreachable!("the session was not regenerated")
        };
        let json = serde_json::to_vec(&visitor(case.items)).unwrap();
        println!("{case}: {} bytes of JSON are {} in the backend", json.len(), payload.len());
    }
    divan::main();
}

/// The session of a shop's visitor, with a cart.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Visitor {
    user_id: u64,
    username: String,
    email: String,
    roles: Vec<String>,
    locale: String,
    csrf: String,
    logged_in_at: u64,
    cart: Vec<Item>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Item {
    sku: String,
    title: String,
    quantity: u32,
    price_cents: u32,
    added_at: u64,
}

/// Generates a session that is the same in each run.
fn visitor(items: usize) -> Visitor {
    let mut random: u64 = 88_172_645_463_325_252;
    let mut roll = |sides: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % sides
    };
    let cart = (0..items).map(|_| Item {
        sku: format!("SKU-{:06}", roll(1_000_000)),
        title: format!(
            "{} {}",
            ["Blue", "Large", "Wool", "Paper"][roll(4) as usize],
            ["kettle", "scarf", "lamp"][roll(3) as usize]
        ),
        quantity: roll(7) as u32 + 1,
        price_cents: roll(20_000) as u32,
        added_at: 1_763_900_000_000 + roll(10_000_000),
    });
    Visitor {
        cart: cart.collect(),
        user_id: 4711,
        username: "ada.lovelace".to_owned(),
        email: "ada@example.com".to_owned(),
        roles: vec!["editor".to_owned(), "billing".to_owned()],
        locale: "en-GB".to_owned(),
        csrf: "pX3uYw0kq7V1mB9tZr5sNg".to_owned(),
        logged_in_at: 1_763_900_000_123,
    }
}

#[derive(Clone, Copy)]
struct Case {
    items: usize,
    form: Form,
}

/// The form in which records are written.
#[derive(Clone, Copy, Debug)]
enum Form {
    Plain,
    Encrypted,
    Compressed,
    Both,
    Packed,
    PackedAndCompressed,
}

const FORMS: [Form; 6] = [
    Form::Plain,
    Form::Encrypted,
    Form::Compressed,
    Form::Both,
    Form::Packed,
    Form::PackedAndCompressed,
];
/// Items in the cart that make about 300 bytes, 2 KB and 16 KB of JSON.
const ITEMS: [usize; 3] = [1, 17, 152];

fn cases() -> impl Iterator<Item = Case> {
    ITEMS.into_iter().flat_map(|items| FORMS.map(|form| Case { items, form }))
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} items, {:?}", self.items, self.form)
    }
}

/// A session that is in the backend in memory and in the cache.
struct Session {
    runtime: Runtime,
    store: SessionStore<Visitor>,
    backend: MemoryBackend,
    id: SessionId,
}

impl Case {
    fn session(self) -> Session {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let backend = MemoryBackend::new();
        let encrypts = match self.form {
            Form::Encrypted | Form::Both => Encryption::Required,
            _ => Encryption::Off,
        };
        let compresses =
            matches!(self.form, Form::Compressed | Form::Both | Form::PackedAndCompressed);
        let format = match self.form {
            Form::Packed | Form::PackedAndCompressed => DataFormat::MessagePack,
            _ => DataFormat::Json,
        };
        let config = SessionConfig::builder(Secret::new([7; 32]).unwrap())
            .cluster(ClusterConfig::new().enabled(false))
            .backend(backend.clone())
            .data_format(format)
            .encrypt_redis_data(encrypts)
            .compress_data(compresses)
            .compression_threshold(0)
            .build()
            .unwrap();
        let store = SessionStore::new(config);
        let id = runtime.block_on(store.create(visitor(self.items))).unwrap().id;
        Session { runtime, store, backend, id }
    }
}

#[bench(args = cases())]
fn write(bencher: Bencher<'_, '_>, case: Case) {
    let Session { runtime, store, id, .. } = case.session();
    bencher.bench_local(|| {
        runtime.block_on(store.modify(id, |visitor| visitor.user_id ^= 1)).unwrap();
    });
}

#[bench(args = cases())]
fn load(bencher: Bencher<'_, '_>, case: Case) {
    let Session { runtime, store, id, .. } = case.session();
    bencher.bench_local(|| runtime.block_on(store.find_fresh(id)).unwrap());
}

#[bench(args = ITEMS)]
fn serde_json_to_vec(bencher: Bencher<'_, '_>, items: usize) {
    let visitor = visitor(items);
    bencher.bench_local(|| serde_json::to_vec(black_box(&visitor)).unwrap());
}

#[bench(args = ITEMS)]
fn serde_json_from_slice(bencher: Bencher<'_, '_>, items: usize) {
    let json = serde_json::to_vec(&visitor(items)).unwrap();
    bencher.bench_local(|| serde_json::from_slice::<Visitor>(black_box(&json)).unwrap());
}

//! What reading a body costs: a chat of 100 bytes, and histories of 100 KB.

use criterion::{Criterion, Throughput};
use llamero::wire::{Ask, Kind};
use std::hint::black_box;
use std::time::Duration;

/// A chat history of this many messages of so many bytes of text.
fn history(messages: usize, bytes: usize, text: &str) -> String {
    let content = text.repeat(bytes / text.len());
    let message = format!(r#"{{"role":"user","content":"{content}"}}"#);
    let all = vec![message; messages].join(",");
    format!(
        r#"{{"model":"llama3.2","messages":[{all}],"options":{{"num_ctx":8192}},"stream":true}}"#
    )
}

fn read(criterion: &mut Criterion) {
    let chats = [
        ("100 B", history(1, 8, "x")),
        ("100 KB, 200 messages", history(200, 500, "lorem ipsum ")),
        ("100 KB, 10 messages", history(10, 10_000, "lorem ipsum ")),
        (
            "100 KB, with escapes",
            history(200, 500, r#"let a = \"b\";\n"#),
        ),
        ("100 KB, not ASCII", history(200, 500, "многая лета ")),
    ];
    let mut group = criterion.benchmark_group("read");
    for (name, body) in &chats {
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(format!("chat, {name}"), |bench| {
            bench.iter(|| Ask::read_as(Kind::Chat, black_box(body.as_bytes())));
        });
    }
    let prompt = format!(
        r#"{{"model":"llama3.2","prompt":"{}"}}"#,
        "x".repeat(100_000)
    );
    group.bench_function("generate, 100 KB", |bench| {
        bench.iter(|| Ask::read_as(Kind::Generate, black_box(prompt.as_bytes())));
    });
    let items = history(200, 500, "lorem ipsum ").replace("messages", "input");
    group.bench_function("responses, 100 KB, 200 items", |bench| {
        bench.iter(|| Ask::read_as(Kind::Responses, black_box(items.as_bytes())));
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30)
        .without_plots()
        .configure_from_args();
    read(&mut criterion);
    criterion.final_summary();
}

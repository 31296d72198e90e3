//! What it costs to look at a process in `/proc`, by how many threads it has: this one is looked at.

use std::hint::black_box;
use std::thread;

use criterion::{Criterion, criterion_group, criterion_main};
use miku_probe::samplers::Target;
use miku_probe::samplers::process::Sampler;
use miku_probe::units::{ServiceId, Tgid};

fn processes(criterion: &mut Criterion) {
    let own = [Target { service: ServiceId(0), tgid: Tgid(std::process::id()) }];
    let mut group = criterion.benchmark_group("processes");
    let mut threads = 1;
    for wanted in [1, 8, 64] {
        while threads < wanted {
            thread::spawn(|| {
                loop {
                    thread::park();
                }
            });
            threads += 1;
        }
        let mut sampler = Sampler::default();
        group.bench_function(format!("look at {threads} threads"), |bencher| {
            bencher.iter(|| sampler.look(&own, true, |look| drop(black_box(look))));
        });
    }
    group.finish();
}

criterion_group!(benches, processes);
criterion_main!(benches);

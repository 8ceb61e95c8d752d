//! Parallel encoders with shared weights.

use crate::encoder::{TOKENIZER, encoder, reference_texts};
use lnsp_ingest::encoder::{Device, Dtype, Encoder, Parallelism, Tokens};
use std::sync::{Barrier, Mutex};
use std::thread::{available_parallelism, scope};

#[test]
fn encoders_with_shared_weights_compute_the_same_vectors_in_parallel() {
    let texts: Vec<String> = reference_texts().into_iter().take(16).collect();
    let tokens: Vec<Tokens> = texts.iter().map(|text| TOKENIZER.tokenize(text).unwrap()).collect();
    let batch: Vec<&Tokens> = tokens.iter().collect();
    let mut first = encoder(Dtype::F32);
    let expected: Vec<_> = first.encode(&batch).unwrap().into_iter().map(Result::unwrap).collect();
    let first = Mutex::new(first);
    let together = Barrier::new(3);
    let work = || {
        let mut encoder = first.lock().unwrap().share_weights();
        together.wait();
        for _ in 0..3 {
            let vectors: Vec<_> = encoder.encode(&batch).unwrap().into_iter().map(Result::unwrap).collect();
            assert_eq!(vectors, expected, "bit by bit");
        }
        encoder.identity().clone()
    };
    let identities = scope(|scope| [(); 3].map(|()| scope.spawn(work)).map(|thread| thread.join().unwrap()));
    assert!(identities.iter().all(|identity| identity == first.lock().unwrap().identity()));
}

#[test]
fn parallelism_fits_the_cores_of_the_process() {
    let parallelism = Parallelism::on(Device::Cpu);
    let cores = available_parallelism().unwrap();
    assert!(parallelism.encoders.get() * parallelism.threads.get() <= cores.get());
    assert!(cores.get() > 8 || (parallelism.encoders, parallelism.threads.get()) == (cores, 1));
}

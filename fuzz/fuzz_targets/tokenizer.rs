#![no_main]

// libFuzzer's hook ends the process at every panic, also at those of the library that `Tokenizer` catches. A panic that
// leaves the target ends it all the same.
libfuzzer_sys::fuzz_target!(init: drop(std::panic::take_hook()), |data: &[u8]| lnsp_fuzz::tokenizer(data));

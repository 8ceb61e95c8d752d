//! Names of models, compared as their servers compare them. Pure.

/// Whether Ollama means the same model by both names: without regard to case, with the default registry, namespace and
/// tag filled in.
pub fn same_for_ollama(one: &str, other: &str) -> bool {
    full(one) == full(other)
}

/// `host/namespace/model:tag` in lower case.
fn full(name: &str) -> String {
    let name = name.trim().to_ascii_lowercase();
    let name = name.strip_prefix("http://").or_else(|| name.strip_prefix("https://")).unwrap_or(&name);
    // A colon before the last slash belongs to a port.
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    let tagged = if name[last..].contains(':') { name.to_owned() } else { format!("{name}:latest") };
    match tagged.matches('/').count() {
        0 => format!("registry.ollama.ai/library/{tagged}"),
        1 => format!("registry.ollama.ai/{tagged}"),
        _ => tagged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_filled_in_and_case_is_ignored() {
        for (one, other) in [
            ("llama3.1:8b", "llama3.1:8b"),
            ("tinyllama", "tinyllama:latest"),
            ("library/tinyllama", "tinyllama"),
            ("registry.ollama.ai/library/tinyllama:latest", "tinyllama"),
            ("Mistral", "mistral:latest"),
            (
                "hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
                "HF.co/bartowski/llama-3.2-1b-instruct-gguf:q4_k_m",
            ),
            ("https://hub:5000/me/own", "hub:5000/me/own:latest"),
        ] {
            assert!(same_for_ollama(one, other), "{one} {other}");
        }
        for (one, other) in [
            ("llama3.1:8b", "llama3.1"),
            ("tinyllama:latest", "tinyllama:1.1b"),
            ("me/tinyllama", "tinyllama"),
            ("hub:5000/me/own", "me/own"),
        ] {
            assert!(!same_for_ollama(one, other), "{one} {other}");
        }
    }
}

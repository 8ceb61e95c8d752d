//! Which files of a repository make a model: the network, its tokenizer, and what sentence-transformers puts behind it.
//! Weights as safetensors only. Pure.

use super::manifest::File;
use super::{HubError, Recipe};
use serde::Deserialize;
use serde_json::Value;

/// What the modules of a model are listed in.
pub const MODULES: &str = "modules.json";
const AT_THE_TOP: [&str; 1] = ["config_sentence_transformers.json"];
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
const USEFUL: [&str; 4] =
    ["sentence_bert_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"];
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

#[derive(Deserialize)]
struct Module {
    #[serde(default)]
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

impl Module {
    fn is(&self, kind: &str) -> bool {
        self.kind.rsplit('.').next() == Some(kind)
    }
}

/// The list of modules that the model's folder shall have, for this recipe.
///
/// # Errors
/// When it is no list of modules, or has no network.
pub fn modules(list: &[u8], recipe: Recipe) -> Result<Vec<u8>, serde_json::Error> {
    let mut modules: Vec<Value> = serde_json::from_slice(list)?;
    if recipe == Recipe::AsItIs {
        return Ok(list.to_owned());
    }
    modules.retain(|module| {
        let kind = module["type"].as_str().and_then(|kind| kind.rsplit('.').next());
        matches!(kind, Some("Transformer" | "Pooling"))
    });
    for (index, module) in modules.iter_mut().enumerate() {
        (module["idx"], module["name"]) = (index.into(), index.to_string().into());
    }
    serde_json::to_vec_pretty(&modules)
}

/// The files to fetch, besides the list of modules itself.
///
/// # Errors
/// What is missing; [`HubError::OnlyPickle`] where weights are there in another form only.
pub fn select(id: &str, files: &[File], modules: &[u8]) -> Result<Vec<File>, HubError> {
    let unreadable =
        |_| HubError::Incomplete { id: id.to_owned(), file: format!("{MODULES} that can be read") };
    let modules: Vec<Module> = serde_json::from_slice(modules).map_err(unreadable)?;
    let repository = RepositoryFiles { id, files };
    let network = modules.iter().find(|module| module.is("Transformer")).map_or("", |module| &module.path);
    let mut chosen: Vec<&File> = AT_THE_TOP.iter().filter_map(|name| repository.find("", name)).collect();
    for name in NEEDED {
        chosen.push(repository.find(network, name).ok_or_else(|| repository.lacks(network, name))?);
    }
    chosen.extend(USEFUL.iter().filter_map(|name| repository.find(network, name)));
    chosen.extend(repository.weights(network)?.ok_or_else(|| repository.lacks(network, WEIGHTS))?);
    for module in modules.iter().filter(|module| !module.is("Transformer")) {
        chosen.extend(repository.find(&module.path, "config.json"));
        chosen.extend(repository.weights(&module.path)?.unwrap_or_default());
    }
    chosen.into_iter().map(|file| repository.safe(file)).collect()
}

/// The files of one repository.
struct RepositoryFiles<'a> {
    id: &'a str,
    files: &'a [File],
}

impl<'a> RepositoryFiles<'a> {
    fn find(&self, folder: &str, name: &str) -> Option<&'a File> {
        let path = join(folder, name);
        self.files.iter().find(|file| file.path == path)
    }

    /// In one file, or in numbered ones with their index; `None` if there are none in any form.
    fn weights(&self, folder: &str) -> Result<Option<Vec<&'a File>>, HubError> {
        if let Some(single) = self.find(folder, WEIGHTS) {
            return Ok(Some(vec![single]));
        }
        if let Some(index) = self.find(folder, INDEX) {
            let prefix = join(folder, "model-");
            let is_shard =
                |file: &&File| file.path.starts_with(&prefix) && file.path.ends_with(".safetensors");
            let shards: Vec<&File> = self.files.iter().filter(is_shard).collect();
            // model-00001-of-00003.safetensors
            let total = shards.first().and_then(|shard| {
                let (_, total) = shard.path.trim_end_matches(".safetensors").rsplit_once("-of-")?;
                total.parse::<usize>().ok()
            });
            if total != Some(shards.len()) {
                return Err(self.lacks(folder, "complete set of the safetensors files that its index names"));
            }
            return Ok(Some([&[index][..], &shards].concat()));
        }
        let here = |file: &&File| file.path.rsplit_once('/').map_or("", |(folder, _)| folder) == folder;
        let pickle = |file: &&File| {
            let end = file.path.rsplit('.').next();
            matches!(end, Some("bin" | "pt" | "pth" | "pkl" | "ckpt"))
        };
        match self.files.iter().filter(here).find(pickle) {
            Some(file) => Err(HubError::OnlyPickle { id: self.id.to_owned(), file: file.path.clone() }),
            None => Ok(None),
        }
    }

    fn lacks(&self, folder: &str, name: &str) -> HubError {
        HubError::Incomplete { id: self.id.to_owned(), file: join(folder, name) }
    }

    fn safe(&self, file: &File) -> Result<File, HubError> {
        let inside = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', '\0']);
        match file.path.split('/').all(inside) {
            true => Ok(file.clone()),
            false => Err(HubError::UnsafePath { id: self.id.to_owned(), path: file.path.clone() }),
        }
    }
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::super::Hash;
    use super::*;

    const GTR: &str = r#"[
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
        {"idx": 3, "name": "3", "path": "3_Normalize", "type": "sentence_transformers.models.Normalize"}]"#;

    fn listed(paths: &[&str]) -> Vec<File> {
        let file =
            |path: &&str| File { path: (*path).to_owned(), size: 1, hash: Hash::sha256(path.as_bytes()) };
        paths.iter().map(file).collect()
    }
    fn chosen(paths: &[&str], modules: &str) -> Result<Vec<String>, HubError> {
        let files = select("owner/name", &listed(paths), modules.as_bytes())?;
        Ok(files.into_iter().map(|file| file.path).collect())
    }

    #[test]
    fn a_model_is_what_an_encoder_reads_and_nothing_else() {
        let paths = [
            "config.json",
            "tokenizer.json",
            "spiece.model",
            "model.safetensors",
            "pytorch_model.bin",
            "onnx/model.onnx",
            "1_Pooling/config.json",
            "2_Dense/config.json",
            "2_Dense/model.safetensors",
            "2_Dense/pytorch_model.bin",
            "README.md",
        ];
        let whole = ["config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json"];
        let dense = ["2_Dense/config.json", "2_Dense/model.safetensors"];
        assert_eq!(chosen(&paths, GTR).unwrap(), [&whole[..], &dense].concat());
        let bare = modules(GTR.as_bytes(), Recipe::WithoutDense).unwrap();
        assert_eq!(chosen(&paths, std::str::from_utf8(&bare).unwrap()).unwrap(), whole);
        assert_eq!(modules(GTR.as_bytes(), Recipe::AsItIs).unwrap(), GTR.as_bytes());
    }

    #[test]
    fn shards_come_with_their_index_and_all_of_them() {
        let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        let base = ["config.json", "tokenizer.json", "model.safetensors.index.json"];
        assert_eq!(chosen(&[&base[..], &shards].concat(), "[]").unwrap().len(), 5);
        let sentence = chosen(&[&base[..], &shards[..1]].concat(), "[]").unwrap_err().to_string();
        assert!(sentence.contains("complete set"), "{sentence}");
    }

    #[test]
    fn what_is_missing_or_unsafe_is_said() {
        let refused = |paths: &[&str], modules: &str, why: &str| {
            let sentence = chosen(paths, modules).unwrap_err().to_string();
            assert!(sentence.contains(why), "{sentence}");
        };
        refused(&["tokenizer.json", "model.safetensors"], "[]", "config.json");
        refused(&["config.json", "model.safetensors"], "[]", "tokenizer.json");
        refused(&["config.json", "tokenizer.json"], "[]", "model.safetensors");
        refused(
            &["config.json", "tokenizer.json", "pytorch_model.bin"],
            "[]",
            "only as a pickle (pytorch_model.bin)",
        );
        let dense = ["config.json", "tokenizer.json", "model.safetensors", "2_Dense/pytorch_model.bin"];
        refused(&dense, GTR, "2_Dense/pytorch_model.bin");
        let up = r#"[{"path": "..", "type": "Transformer"}]"#;
        refused(&["../config.json", "../tokenizer.json", "../model.safetensors"], up, "inside its folder");
    }
}

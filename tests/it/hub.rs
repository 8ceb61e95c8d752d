//! Models come from a hub whole and verified, or not at all: what is cut off goes on, what is wrong is not kept, and
//! what could run code is never asked for.

use crate::support::fake_hub::{COMMIT, FakeHub, Fault, REPOSITORY};
use crate::support::test_service::models;
use lnsp_ingest::encoder::locate;
use lnsp_ingest::hub::{
    self, Address, FetchRetry, Hub, HubError, MANIFEST, Manifest, ModelSource, PullObserver, Pulled, Recipe,
    Token,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

const WEIGHTS: &str = "model.safetensors";
const WEIGHTS_SIZE: usize = 300_000;
/// The files of a real model with weights that are not read here, and files that no pull fetches.
pub fn files() -> Vec<(&'static str, Vec<u8>)> {
    let real = models().join("all-minilm-l6-v2");
    let names = [
        "config.json",
        "config_sentence_transformers.json",
        "modules.json",
        "sentence_bert_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "1_Pooling/config.json",
    ];
    let mut files: Vec<_> = names.map(|name| (name, fs::read(real.join(name)).unwrap())).into();
    files.push((WEIGHTS, (0..WEIGHTS_SIZE).map(|n| (n % 251) as u8).collect()));
    let unwanted = ["README.md", "vocab.txt", "pytorch_model.bin", "onnx/model.onnx", "openvino/model.bin"];
    files.extend(unwanted.map(|name| (name, b"unwanted".to_vec())));
    files
}

/// A tiny T5 in the layout of sentence-transformers, and a file that no pull fetches.
fn t5(name: &str) -> Vec<(&'static str, Vec<u8>)> {
    let names = [
        "config.json",
        "modules.json",
        "sentence_bert_config.json",
        "tokenizer.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
        "vectors.f32",
    ];
    let folder = crate::root().join("tests/data/t5").join(name);
    names.into_iter().filter_map(|name| Some((name, fs::read(folder.join(name)).ok()?))).collect()
}

fn without(files: &mut Vec<(&'static str, Vec<u8>)>, name: &str) {
    files.retain(|(path, _)| *path != name);
}

#[derive(Default)]
struct PullRecord {
    bytes: u64,
    progress: Vec<u64>,
    messages: Vec<String>,
}

impl PullObserver for PullRecord {
    fn on_start(&mut self, _: usize, bytes: u64) {
        self.bytes = bytes;
    }
    fn on_progress(&mut self, bytes: u64) {
        self.progress.push(bytes);
    }
    fn on_message(&mut self, sentence: &str) {
        self.messages.push(sentence.to_owned());
    }
}

/// A folder for models, and the settings of pulls into it.
struct Scene {
    models: TempDir,
    retry: FetchRetry,
    token: Option<Token>,
    record: PullRecord,
}

impl Scene {
    fn new() -> Scene {
        let seconds = Duration::from_secs;
        let retry = FetchRetry {
            connect: seconds(10),
            stall: seconds(20),
            pause: Duration::from_millis(1),
            tries: 4,
        };
        Scene { models: tempfile::tempdir().unwrap(), retry, token: None, record: PullRecord::default() }
    }

    fn folder(&self) -> PathBuf {
        self.models.path().join("owner--tiny")
    }

    async fn pull(&mut self, hub: &FakeHub) -> Result<Pulled, HubError> {
        self.pull_from(hub, &ModelSource::find(REPOSITORY).unwrap()).await
    }

    async fn pull_from(&mut self, hub: &FakeHub, source: &ModelSource) -> Result<Pulled, HubError> {
        let address: Address = hub.url().parse().unwrap();
        let hub = Hub::new(address, self.token.clone(), self.retry).unwrap();
        hub::pull(&hub, source, self.models.path(), &mut self.record).await
    }

    /// A pull that must fail, with a sentence that holds all of `words`.
    async fn fails(&mut self, hub: &FakeHub, words: &[&str]) {
        let sentence = self.pull(hub).await.unwrap_err().to_string();
        assert!(words.iter().all(|word| sentence.contains(word)), "{words:?}: {sentence}");
        assert!(!self.folder().exists(), "a model that is not whole has its name");
    }
}

fn below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        match path.is_dir() {
            true => found.extend(below(&path).into_iter().map(|inner| format!("{name}/{inner}"))),
            false => found.push(name),
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_model_comes_whole_with_what_an_encoder_reads_and_is_found_by_its_name() {
    let (hub, mut scene) = (FakeHub::start(&files()), Scene::new());
    let pulled = scene.pull(&hub).await.unwrap();
    assert!(!pulled.before);
    let mut expected: Vec<&str> = files()[..9].iter().map(|(name, _)| *name).chain([MANIFEST]).collect();
    expected.sort_unstable();
    assert_eq!(below(&scene.folder()), expected);
    for (name, bytes) in &files()[..9] {
        assert_eq!(&fs::read(scene.folder().join(name)).unwrap(), bytes, "{name}");
    }
    let manifest = Manifest::of(&scene.folder()).unwrap();
    assert_eq!(
        (manifest.hub_id.as_str(), manifest.commit.as_str(), manifest.files.len()),
        (REPOSITORY, COMMIT, 9)
    );
    let size: u64 = files()[..9].iter().map(|(_, bytes)| bytes.len() as u64).sum();
    assert_eq!(
        (manifest.size(), scene.record.bytes, scene.record.progress.last()),
        (size, size, Some(&size))
    );
    assert!(scene.record.progress.is_sorted());
    // Each file was asked for once, and no byte of another was sent.
    assert_eq!((hub.fetched().len(), hub.sent() as u64), (9, size));
    assert!(hub.asked().iter().all(|asked| asked.token.is_none()));

    let found = locate(REPOSITORY, &[scene.models.path().to_owned()]).unwrap();
    assert_eq!((found.folder, found.name.as_str()), (scene.folder(), "owner--tiny"));
}

#[tokio::test]
async fn a_second_pull_reads_what_is_there_and_sends_no_request() {
    let (hub, mut scene) = (FakeHub::start(&files()), Scene::new());
    scene.pull(&hub).await.unwrap();
    let asked = hub.asked().len();
    assert!(scene.pull(&hub).await.unwrap().before);
    assert_eq!(hub.asked().len(), asked);
    assert_eq!(fs::read_dir(scene.models.path()).unwrap().count(), 1, "something is left behind");
}

#[tokio::test]
async fn a_file_that_was_damaged_later_is_fetched_again_and_no_other() {
    let (hub, mut scene) = (FakeHub::start(&files()), Scene::new());
    scene.pull(&hub).await.unwrap();
    let asked = hub.fetched().len();
    let mut weights = fs::read(scene.folder().join(WEIGHTS)).unwrap();
    weights[7] ^= 1;
    fs::write(scene.folder().join(WEIGHTS), weights).unwrap();
    assert!(!scene.pull(&hub).await.unwrap().before);
    assert_eq!(hub.fetched()[asked..], ["modules.json", WEIGHTS]);
    assert!(scene.pull(&hub).await.unwrap().before);
}

#[tokio::test]
async fn a_download_that_is_cut_goes_on_where_it_ended() {
    let (hub, mut scene) = (FakeHub::start(&files()), Scene::new());
    hub.spoil(WEIGHTS, Fault::CutAfter(100_000));
    hub.spoil(WEIGHTS, Fault::CutAfter(50_000));
    let pulled = scene.pull(&hub).await.unwrap();
    let range = |from: usize| Some(format!("bytes={from}-"));
    assert_eq!(hub.ranges(WEIGHTS), [None, range(100_000), range(150_000)]);
    assert_eq!(hub.sent() as u64, pulled.manifest.size(), "no byte came twice");
    assert_eq!(scene.record.messages.len(), 2, "{:?}", scene.record.messages);
}

#[tokio::test]
async fn a_pull_that_gave_up_is_gone_on_with_by_the_next_one() {
    let (hub, mut scene) = (FakeHub::start(&files()), Scene::new());
    scene.retry.tries = 1;
    hub.spoil(WEIGHTS, Fault::CutAfter(200_000));
    scene.fails(&hub, &["127.0.0.1", "run the same command again"]).await;
    let before = hub.fetched();
    assert!(before.len() > 2);
    let pulled = scene.pull(&hub).await.unwrap();
    assert_eq!(hub.ranges(WEIGHTS), [None, Some("bytes=200000-".to_owned())]);
    // Small files come again only where they are needed to know what to fetch.
    let list = fs::metadata(scene.folder().join("modules.json")).unwrap().len();
    assert_eq!(hub.sent() as u64, pulled.manifest.size() + list);
    assert_eq!(below(&scene.folder()).len(), 10, "something of the unfinished file is left");
}

#[tokio::test]
async fn a_hub_that_cannot_go_on_is_asked_for_the_whole_file() {
    let (hub, mut scene) = (FakeHub::start(&files()), Scene::new());
    hub.spoil(WEIGHTS, Fault::CutAfter(100_000));
    hub.spoil(WEIGHTS, Fault::NoRange);
    let pulled = scene.pull(&hub).await.unwrap();
    assert_eq!(hub.ranges(WEIGHTS), [None, Some("bytes=100000-".to_owned())]);
    assert_eq!(hub.sent() as u64, pulled.manifest.size() + 100_000);
}

#[tokio::test]
async fn slowness_is_no_stall_and_a_stall_is_a_cut() {
    let (hub, mut scene) = (FakeHub::start(&files()), Scene::new());
    // Eight pauses take longer together than a stall may.
    scene.retry.stall = Duration::from_secs(5);
    hub.spoil(WEIGHTS, Fault::Slow(Duration::from_millis(700)));
    scene.pull(&hub).await.unwrap();
    assert_eq!(hub.ranges(WEIGHTS), [None]);

    let (hub, mut scene) = (FakeHub::start(&files()), Scene::new());
    scene.retry.stall = Duration::from_secs(3);
    hub.spoil(WEIGHTS, Fault::StallAfter(120_000));
    scene.pull(&hub).await.unwrap();
    assert_eq!(hub.ranges(WEIGHTS), [None, Some("bytes=120000-".to_owned())]);
    assert!(scene.record.messages[0].contains("no byte for 3 s"), "{:?}", scene.record.messages);
}

#[tokio::test]
async fn a_hub_in_trouble_is_asked_again_and_not_for_ever() {
    let (hub, mut scene) = (FakeHub::start(&files()), Scene::new());
    for _ in 0..2 {
        hub.spoil("/revision/main", Fault::Status(503, "Retry-After: 0\r\n"));
        hub.spoil(WEIGHTS, Fault::Status(429, "Retry-After: 0\r\n"));
    }
    scene.pull(&hub).await.unwrap();
    assert_eq!((hub.ranges("/revision/main").len(), hub.ranges(WEIGHTS).len()), (3, 3));

    let (hub, mut scene) = (FakeHub::start(&files()), Scene::new());
    (0..4).for_each(|_| hub.spoil(WEIGHTS, Fault::Status(500, "")));
    scene.fails(&hub, &["status 500", "go on"]).await;
    assert_eq!(hub.ranges(WEIGHTS).len(), 4);
}

#[tokio::test]
async fn other_bytes_than_those_of_the_list_are_not_kept() {
    let (hub, mut scene) = (FakeHub::start(&files()), Scene::new());
    hub.spoil(WEIGHTS, Fault::Damage);
    scene.fails(&hub, &[WEIGHTS, "expected sha256:", "received sha256:", "again"]).await;
    scene.pull(&hub).await.unwrap();
    assert_eq!(hub.ranges(WEIGHTS), [None, None], "the wrong bytes were gone on with");

    // Small files have Git's hash.
    let (hub, mut scene) = (FakeHub::start(&files()), Scene::new());
    hub.spoil("/tokenizer.json", Fault::Damage);
    scene.fails(&hub, &["tokenizer.json", "expected git:", "received git:"]).await;
    hub.spoil("/modules.json", Fault::Damage);
    scene.fails(&hub, &["modules.json", "expected git:", "received git:"]).await;
}

#[tokio::test]
async fn a_size_that_is_not_that_of_the_list_is_refused_and_so_is_what_does_not_fit_on_the_disk() {
    for size in [WEIGHTS_SIZE + 1, WEIGHTS_SIZE - 1] {
        let (hub, mut scene) = (FakeHub::start(&files()), Scene::new());
        hub.pretend(WEIGHTS, size as u64);
        let (expected, received) = (format!("expected {size}"), format!("received {WEIGHTS_SIZE}"));
        scene.fails(&hub, &[WEIGHTS, &expected, &received]).await;
    }
    let (hub, mut scene) = (FakeHub::start(&files()), Scene::new());
    hub.pretend(WEIGHTS, 1 << 60);
    scene.fails(&hub, &["bytes are needed", "free", "LNSP_DATA_DIR"]).await;
    assert_eq!(hub.fetched(), ["modules.json"]);
}

#[tokio::test]
async fn a_missing_or_private_model_is_reported_at_once() {
    let (hub, mut scene) = (FakeHub::start(&files()), Scene::new());
    let mut refused = async |name: &str, words: &[&str]| {
        let sentence =
            scene.pull_from(&hub, &ModelSource::find(name).unwrap()).await.unwrap_err().to_string();
        assert!(words.iter().all(|word| sentence.contains(word)), "{name}: {sentence}");
    };
    // Hubs say 401 about what does not exist.
    refused("nobody/nothing", &["has no model nobody/nothing", "HF_TOKEN"]).await;
    refused("owner/tiny@v9", &["owner/tiny has no revision 'v9'"]).await;
    hub.spoil("/revision/main", Fault::Status(404, ""));
    refused(REPOSITORY, &["has no model owner/tiny", "HF_TOKEN"]).await;
    hub.spoil("/revision/main", Fault::Status(403, ""));
    refused(REPOSITORY, &["status 403", "HF_TOKEN"]).await;
    hub.spoil(WEIGHTS, Fault::Status(401, "X-Error-Code: GatedRepo\r\n"));
    refused(REPOSITORY, &["status 401", "terms"]).await;
    assert_eq!(hub.asked().len(), 4 + hub.fetched().len() + 2, "something was tried twice");
}

#[tokio::test]
async fn pickles_are_refused_and_not_asked_for() {
    let mut only_pickle = files();
    without(&mut only_pickle, WEIGHTS);
    let (hub, mut scene) = (FakeHub::start(&only_pickle), Scene::new());
    scene.fails(&hub, &["pytorch_model.bin", "pickle", "safetensors"]).await;
    assert_eq!(hub.fetched(), ["modules.json"]);
    without(&mut only_pickle, "pytorch_model.bin");
    let hub = FakeHub::start(&only_pickle);
    scene.fails(&hub, &["has no model.safetensors"]).await;
}

#[tokio::test]
async fn the_token_goes_to_the_hub_and_nowhere_else() {
    let (hub, store, mut scene) = (FakeHub::start(&files()), FakeHub::start(&files()), Scene::new());
    scene.token = Token::new("hf_secret");
    hub.spoil(WEIGHTS, Fault::Redirect(store.url()));
    store.spoil(WEIGHTS, Fault::CutAfter(1000));
    hub.spoil(WEIGHTS, Fault::Redirect(store.url()));
    // An address in a store runs out: the hub is asked for a new one.
    store.spoil(WEIGHTS, Fault::Status(403, ""));
    scene.pull(&hub).await.unwrap();
    assert!(hub.asked().iter().all(|asked| asked.token.as_deref() == Some("Bearer hf_secret")));
    let from = |from: usize| Some(format!("bytes={from}-"));
    assert_eq!(store.ranges(WEIGHTS), [None, from(1000)]);
    assert!(store.asked().iter().all(|asked| asked.token.is_none()), "{:?}", store.asked());
    assert_eq!(hub.ranges(WEIGHTS), [None, from(1000), from(1000)]);
    assert!(scene.record.messages.iter().all(|said| !said.contains("hf_secret")));

    let (circle, mut scene) = (FakeHub::start(&files()), Scene::new());
    (0..20).for_each(|_| circle.spoil(WEIGHTS, Fault::Redirect(circle.url())));
    scene.fails(&circle, &["redirects"]).await;
}

#[tokio::test]
async fn the_recipe_of_vec2text_has_no_dense() {
    let (hub, mut scene) = (FakeHub::start(&t5("plain-dense")), Scene::new());
    let whole = ModelSource::find(REPOSITORY).unwrap();
    let bare = ModelSource { recipe: Recipe::WithoutDense, folder: "bare".to_owned(), ..whole.clone() };
    let pulled = scene.pull_from(&hub, &bare).await.unwrap();
    assert!(hub.fetched().iter().all(|name| !name.starts_with("2_Dense")), "{:?}", hub.fetched());
    let modules: serde_json::Value =
        serde_json::from_slice(&fs::read(pulled.folder.join("modules.json")).unwrap()).unwrap();
    let kinds = modules.as_array().unwrap().iter().map(|module| module["type"].as_str().unwrap());
    let kinds: Vec<&str> = kinds.map(|kind| kind.rsplit('.').next().unwrap()).collect();
    assert_eq!(kinds, ["Transformer", "Pooling"]);
    assert_eq!(pulled.manifest.recipe, "without dense");
    // Its own list of modules is verified like any other file.
    assert!(scene.pull_from(&hub, &bare).await.unwrap().before);

    scene.pull_from(&hub, &whole).await.unwrap();
    let found = |name| locate(name, &[scene.models.path().to_owned()]).unwrap().identity().unwrap();
    let (bare, whole) = (found("bare"), found(REPOSITORY));
    assert!(whole.recipe.contains("dense") && !bare.recipe.contains("dense"), "{whole}, {bare}");
    assert_ne!(whole.fingerprint, bare.fingerprint, "two spaces that are taken for one");
}

#[tokio::test]
async fn weights_in_several_files_come_all_with_their_index() {
    let (hub, mut scene) = (FakeHub::start(&t5("gated")), Scene::new());
    scene.pull(&hub).await.unwrap();
    let found = locate(REPOSITORY, &[scene.models.path().to_owned()]).unwrap();
    assert_eq!(found.weights.len(), 2);
    assert!(!scene.folder().join("vectors.f32").exists());
}

#[tokio::test]
async fn two_pulls_of_one_model_do_not_meet() {
    let (hub, mut first) = (FakeHub::start(&files()), Scene::new());
    let mut second = Scene::new();
    let address: Address = hub.url().parse().unwrap();
    let other = Hub::new(address, None, second.retry).unwrap();
    let (models, source) = (first.models.path().to_owned(), ModelSource::find(REPOSITORY).unwrap());
    hub.spoil(WEIGHTS, Fault::StallAfter(1000));
    let meanwhile = async {
        crate::support::wait::until("the first waits for the hub", || hub.ranges(WEIGHTS).len() == 1).await;
        let sentence = hub::pull(&other, &source, &models, &mut second.record).await.unwrap_err().to_string();
        assert!(sentence.contains("another pull") && sentence.contains("owner--tiny.part"), "{sentence}");
        hub.go_on();
    };
    let (pulled, ()) = tokio::join!(first.pull(&hub), meanwhile);
    assert!(!pulled.unwrap().before);
    assert_eq!(hub.ranges(WEIGHTS), [None]);
    assert!(hub::pull(&other, &source, &models, &mut second.record).await.unwrap().before);
}

#[tokio::test]
async fn a_folder_that_no_pull_made_is_left_alone() {
    let (hub, mut scene) = (FakeHub::start(&files()), Scene::new());
    fs::create_dir(scene.folder()).unwrap();
    fs::write(scene.folder().join("config.json"), "mine").unwrap();
    let sentence = scene.pull(&hub).await.unwrap_err().to_string();
    assert!(sentence.contains("was not pulled"), "{sentence}");
    assert_eq!((hub.asked().len(), below(&scene.folder())), (0, vec!["config.json".to_owned()]));
}

//! The files of the index, read without the index: what LMDB and arroy say, and the record beside it.

use arroy::distances::Cosine;
use heed::types::{Bytes, SerdeJson, Str};
use heed::{CommitOrAbort, EnvFlags, EnvOpenOptions};
use serde_json::Value;
use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

/// Arroy's kind of an item, in its key.
const ITEM_KIND: u8 = 3;
/// Tag and norm, before the numbers of a vector.
const ITEM_HEADER: usize = 5;

/// What is in the volume that counts.
pub struct Items {
    /// The change it stands at, by its own record.
    pub watermark: i64,
    /// How many items its record tells.
    pub counted: u64,
    /// What is there.
    pub vectors: HashMap<u32, Arc<[f32]>>,
}

impl Items {
    /// Reads them. Only while no service has the folder open.
    pub fn read(folder: &Path) -> Result<Items, Box<dyn Error>> {
        let current = std::fs::read_to_string(folder.join("CURRENT"))?;
        let env = open(&folder.join(current.trim_end()))?;
        let opened = env.open_databases_and_commit(env.read_txn()?, |opener, txn| {
            let record = opener.open_database::<Str, SerdeJson<Value>>(txn, Some("record"))?;
            let vectors: Option<arroy::Database<'_, Cosine>> = opener.open_database(txn, Some("vectors"))?;
            let both = record.zip(vectors).ok_or("it has not both of its databases")?;
            Ok::<_, Box<dyn Error>>(CommitOrAbort::<_, ()>::Commit(both))
        })?;
        let (record, vectors) = opened.commit().ok_or("its databases cannot be opened")?;
        let txn = env.read_txn()?;
        let record = record.get(&txn, "record")?.ok_or("it has no record")?;
        let number = |name: &str| record[name].as_i64().ok_or(format!("its record has no {name}"));
        let forests = record["forests"].as_object().ok_or("its record has no forests")?;
        let mut counted = 0;
        let mut found = HashMap::new();
        for (forest, items) in forests {
            counted += items.as_u64().ok_or("its record has a forest without a count")?;
            // Without trees, so not by arroy's reader.
            let [high, low] = forest.parse::<u16>()?.to_be_bytes();
            for entry in vectors.remap_types::<Bytes, Bytes>().prefix_iter(&txn, &[high, low, ITEM_KIND])? {
                let (key, value) = entry?;
                let item = key.get(3..).and_then(<[u8]>::first_chunk).ok_or("an item has no number")?;
                let item = u32::from_be_bytes(*item);
                let vector = value.get(ITEM_HEADER..).ok_or(format!("item {item} has no vector"))?;
                let vector = vector.as_chunks::<4>().0.iter().map(|bytes| f32::from_ne_bytes(*bytes));
                if found.insert(item, vector.collect()).is_some() {
                    return Err(format!("item {item} is in two forests").into());
                }
            }
        }
        Ok(Items { watermark: number("watermark")?, counted, vectors: found })
    }
}

#[allow(unsafe_code)]
fn open(volume: &Path) -> heed::Result<heed::Env> {
    let mut options = EnvOpenOptions::new();
    options.map_size(1 << 30).max_dbs(3);
    // SAFETY: the service has ended, so no process writes the file under the map; it is opened for reading only.
    unsafe { options.flags(EnvFlags::READ_ONLY).open(volume) }
}

//! The identity of a chunk: its derived id, its public name, and the hash of its content.

use super::draft::Draft;
use uuid::Uuid;

/// blake3 over parts with their lengths in front, so that different lists of parts have different input.
struct Hasher(blake3::Hasher);

impl Hasher {
    fn new(purpose: &str) -> Self {
        let mut hasher = Hasher(blake3::Hasher::new());
        hasher.part(purpose.as_bytes());
        hasher
    }

    fn part(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    }

    /// A missing part differs from an empty one.
    fn optional(&mut self, bytes: Option<&[u8]>) {
        self.0.update(&[u8::from(bytes.is_some())]);
        self.part(bytes.unwrap_or_default());
    }

    fn finish(self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }

    fn finish_uuid(self) -> Uuid {
        let hash = self.finish();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash[..16]);
        Uuid::new_v8(bytes)
    }
}

/// The id of a chunk that was sent without one: a hash of dataset, document, `chunk_index` and text. It does not depend
/// on the position in the request.
pub(super) fn derived_id(draft: &Draft) -> Uuid {
    let mut hasher = Hasher::new("lnsp chunk id 1");
    hasher.part(draft.dataset.as_bytes());
    hasher.optional(draft.placement.document_id.as_deref().map(str::as_bytes));
    hasher.part(&draft.placement.chunk_index.to_le_bytes());
    hasher.part(draft.text.as_bytes());
    hasher.finish_uuid()
}

pub(super) fn public_name(dataset: &str, id: &str) -> Uuid {
    let mut hasher = Hasher::new("lnsp public id 1");
    hasher.part(dataset.as_bytes());
    hasher.part(id.as_bytes());
    hasher.finish_uuid()
}

pub(super) fn content_hash(draft: &Draft) -> [u8; 32] {
    let placement = &draft.placement;
    let mut hasher = Hasher::new("lnsp content 1");
    hasher.part(draft.text.as_bytes());
    for name in [&placement.document_id, &placement.source_document, &placement.article_title] {
        hasher.optional(name.as_deref().map(str::as_bytes));
    }
    hasher.part(&placement.chunk_index.to_le_bytes());
    hasher.optional(placement.article_index.map(i64::to_le_bytes).as_ref().map(<[u8; 8]>::as_slice));
    for links in [&placement.parent_cpe_ids, &placement.child_cpe_ids] {
        hasher.part(&(links.len() as u64).to_le_bytes());
        links.iter().for_each(|link| hasher.part(link.as_bytes()));
    }
    hasher.optional(draft.metadata.as_ref().map(|metadata| metadata.as_str().as_bytes()));
    for code in draft.codes {
        hasher.optional(code.map(i64::to_le_bytes).as_ref().map(<[u8; 8]>::as_slice));
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use crate::chunk::{Batch, Chunk, Draft, Placement};
    use proptest::prelude::*;

    fn draft() -> impl Strategy<Value = Draft> {
        let name = || proptest::option::of("[a-c]{0,3}");
        ("[a-c]{1,3}", "[a-c]{1,3}", name(), name(), 0i64..3, name()).prop_map(
            |(dataset, text, document_id, title, chunk_index, batch)| Draft {
                dataset: dataset.into(),
                text,
                batch: batch.map(|id| Batch::Named(id.into())),
                placement: Placement {
                    document_id,
                    chunk_index,
                    article_title: title,
                    ..Placement::default()
                },
                ..Draft::default()
            },
        )
    }

    /// The input of the derived id.
    fn identity(draft: &Draft) -> (String, Option<String>, i64, String) {
        let placement = &draft.placement;
        (draft.dataset.to_string(), placement.document_id.clone(), placement.chunk_index, draft.text.clone())
    }

    proptest! {
        #[test]
        fn a_derived_id_is_of_dataset_document_position_and_text_and_of_nothing_else(a in draft(), b in draft()) {
            let same = identity(&a) == identity(&b);
            let (a, b) = (Chunk::new(a).unwrap(), Chunk::new(b).unwrap());
            prop_assert_eq!(a.key == b.key, same);
            prop_assert_eq!(a.cpe_id == b.cpe_id, same);
            prop_assert_eq!(a.cpe_id.get_version_num(), 8);
            prop_assert_eq!(a.key.id.to_string(), a.cpe_id.to_string());
        }

        #[test]
        fn the_content_is_everything_but_the_batch(a in draft(), b in draft()) {
            let content = |draft: &Draft| (draft.text.clone(), draft.placement.clone());
            let same = content(&a) == content(&b);
            prop_assert_eq!(Chunk::new(a).unwrap().content_hash == Chunk::new(b).unwrap().content_hash, same);
        }

        #[test]
        fn a_clients_id_is_known_in_its_dataset_only(id in "[a-z0-9-]{1,40}", one in "[a-c]{1,3}", two in "[d-f]{1,3}") {
            let name = |dataset: &str| {
                let (id, dataset) = (Some(id.clone()), dataset.into());
                Chunk::new(Draft { id, dataset, text: "x".into(), ..Draft::default() }).unwrap()
            };
            prop_assert_eq!(name(&one).cpe_id, name(&one).cpe_id);
            prop_assert_ne!(name(&one).cpe_id, name(&two).cpe_id);
        }
    }

    #[test]
    fn parts_that_read_alike_together_are_not_alike() {
        let of = |dataset: &str, document: &str, text: &str| {
            let placement = Placement { document_id: Some(document.into()), ..Placement::default() };
            Chunk::new(Draft { dataset: dataset.into(), text: text.into(), placement, ..Draft::default() })
                .unwrap()
                .key
        };
        assert_ne!(of("ab", "c", "d").id, of("a", "bc", "d").id);
        assert_ne!(of("a", "b", "cd").id, of("a", "bc", "d").id);
    }
}

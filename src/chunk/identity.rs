//! The identity of a chunk: its derived id, its public name, and the hash of its content.

use super::cpesh::Cpesh;
use super::draft::Placement;
use sha2::{Digest, Sha256};
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

    /// The text, and everything that says where it comes from.
    fn origin(&mut self, text: &str, placement: &Placement) {
        self.part(text.as_bytes());
        for name in [&placement.document_id, &placement.source_document, &placement.article_title] {
            self.optional(name.as_deref().map(str::as_bytes));
        }
        self.part(&placement.chunk_index.to_le_bytes());
        self.optional(placement.article_index.map(i64::to_le_bytes).as_ref().map(<[u8; 8]>::as_slice));
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

/// The version of the derived id and of the two hashes. Rows of an earlier version are brought up to date when a store
/// is opened.
pub const IDENTITY_VERSION: i16 = 2;

/// The id of a chunk that was sent without one: a hash of its dataset, its text and everything that says where the text
/// comes from. It does not depend on the position in the request.
pub(super) fn derived_id(dataset: &str, text: &str, placement: &Placement) -> Uuid {
    let mut hasher = Hasher::new("lnsp chunk id 2");
    hasher.part(dataset.as_bytes());
    hasher.origin(text, placement);
    hasher.finish_uuid()
}

pub(super) fn public_name(dataset: &str, id: &str) -> Uuid {
    let mut hasher = Hasher::new("lnsp public id 1");
    hasher.part(dataset.as_bytes());
    hasher.part(id.as_bytes());
    hasher.finish_uuid()
}

/// The hash of what a chunk is: its text, and where that comes from. Two chunks with one id and different hashes are in
/// conflict; a derived id implies the hash.
pub(super) fn content_hash(text: &str, placement: &Placement) -> [u8; 32] {
    let mut hasher = Hasher::new("lnsp content 2");
    hasher.origin(text, placement);
    hasher.finish()
}

/// The hash of what is kept with a chunk and can differ without a conflict: metadata, links and CPESH parts. Its codes
/// and its batch are compared by themselves. Without CPESH parts it is what it was before there were any.
pub(super) fn details_hash(
    metadata_hash: Option<[u8; 32]>,
    placement: &Placement,
    cpesh: Option<&Cpesh>,
) -> [u8; 32] {
    let mut hasher = Hasher::new("lnsp details 1");
    hasher.optional(metadata_hash.as_ref().map(<[u8; 32]>::as_slice));
    for links in [&placement.parent_cpe_ids, &placement.child_cpe_ids] {
        hasher.part(&(links.len() as u64).to_le_bytes());
        links.iter().for_each(|link| hasher.part(link.as_bytes()));
    }
    if let Some(cpesh) = cpesh {
        for (_, part) in cpesh.named_parts() {
            hasher.optional(part.map(str::as_bytes));
        }
        for (_, negatives) in cpesh.named_lists() {
            hasher.part(&(negatives.len() as u64).to_le_bytes());
            negatives.iter().for_each(|negative| hasher.part(negative.as_bytes()));
        }
    }
    hasher.finish()
}

/// SHA-256 of a text, because PostgreSQL computes it too.
pub(super) fn text_sha256(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use crate::chunk::{BatchId, Chunk, Cpesh, Draft, Metadata, Placement};
    use proptest::prelude::*;

    fn draft() -> impl Strategy<Value = Draft> {
        let name = || proptest::option::of("[a-b]{0,1}");
        let links = || proptest::collection::vec("[a-b]{0,1}", 0..2);
        let metadata = proptest::option::of(0..2).prop_map(|number| {
            let metadata =
                |number: i32| Metadata::new([("n".to_owned(), number.into())].into_iter().collect());
            number.map(|number| metadata(number).unwrap())
        });
        let numbers = (0i64..2, proptest::option::of(0i64..2));
        let negatives = || proptest::collection::vec("[c-d]", 0..2);
        let cpesh = ([name(), name()], [negatives(), negatives()]).prop_map(|(parts, lists)| {
            let [probe_question, expected_answer] = parts;
            let [soft_negatives, hard_negatives] = lists;
            Cpesh { concept_text: None, probe_question, expected_answer, soft_negatives, hard_negatives }
        });
        (("[a-b]", "[a-b]"), [name(), name(), name(), name()], numbers, [links(), links()], (metadata, cpesh))
            .prop_map(|((dataset, text), names, (chunk_index, article_index), links, (metadata, cpesh))| {
                let [document_id, source_document, article_title, batch] = names;
                let [parent_cpe_ids, child_cpe_ids] = links;
                Draft {
                    dataset: dataset.into(),
                    text,
                    batch: batch.map(|id| BatchId::Named(id.into())),
                    placement: Placement {
                        document_id,
                        chunk_index,
                        source_document,
                        article_title,
                        article_index,
                        parent_cpe_ids,
                        child_cpe_ids,
                    },
                    metadata,
                    cpesh,
                    ..Draft::default()
                }
            })
    }

    /// What says what a chunk is and where it comes from.
    fn content(draft: &Draft) -> (String, Placement) {
        let Placement { document_id, chunk_index, source_document, article_title, article_index, .. } =
            draft.placement.clone();
        let (parent_cpe_ids, child_cpe_ids) = (Vec::new(), Vec::new());
        let placement = Placement {
            document_id,
            chunk_index,
            source_document,
            article_title,
            article_index,
            parent_cpe_ids,
            child_cpe_ids,
        };
        (draft.text.clone(), placement)
    }

    proptest! {
        #[test]
        fn a_derived_id_is_of_the_dataset_and_the_content_and_of_nothing_else(a in draft(), b in draft()) {
            let same = a.dataset == b.dataset && content(&a) == content(&b);
            let (a, b) = (Chunk::new(a).unwrap(), Chunk::new(b).unwrap());
            prop_assert_eq!(a.key == b.key, same);
            prop_assert_eq!(a.cpe_id == b.cpe_id, same);
            prop_assert_eq!(a.cpe_id.get_version_num(), 8);
            prop_assert_eq!(a.key.id.to_string(), a.cpe_id.to_string());
        }

        #[test]
        fn the_content_is_the_text_and_where_it_comes_from(a in draft(), b in draft()) {
            let same = content(&a) == content(&b);
            prop_assert_eq!(Chunk::new(a).unwrap().content_hash == Chunk::new(b).unwrap().content_hash, same);
        }

        #[test]
        fn details_are_metadata_links_and_cpesh_parts(a in draft(), b in draft()) {
            let details = |draft: &Draft| {
                let Placement { parent_cpe_ids, child_cpe_ids, .. } = draft.placement.clone();
                let cpesh = draft.cpesh.clone().given(&draft.text);
                (draft.metadata.clone(), parent_cpe_ids, child_cpe_ids, cpesh)
            };
            let same = details(&a) == details(&b);
            prop_assert_eq!(Chunk::new(a).unwrap().details_hash == Chunk::new(b).unwrap().details_hash, same);
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

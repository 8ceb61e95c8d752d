//! The cursor of a page: where the next one begins, opaque to clients. It is made of names, so it stays valid whatever is
//! stored or deleted meanwhile.

use crate::error_code::ErrorCode;
use crate::http::error::{ApiError, no_answer};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Which list a cursor belongs to. One of another list would skip what it does not mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CursorOf {
    /// The chunks of a document.
    Chunks,
    /// The documents of a store or a dataset.
    Documents,
    /// The datasets of a store.
    Datasets,
}

impl CursorOf {
    fn tag(self) -> &'static str {
        match self {
            CursorOf::Chunks => "chunks",
            CursorOf::Documents => "documents",
            CursorOf::Datasets => "datasets",
        }
    }

    /// The cursor for the page behind this place.
    ///
    /// # Errors
    /// 500 when the place cannot be written; none is known.
    pub fn write(self, place: &impl Serialize) -> Result<String, ApiError> {
        let json = serde_json::to_vec(&(self.tag(), place)).map_err(|_| no_answer())?;
        Ok(URL_SAFE_NO_PAD.encode(json))
    }

    /// The place in a cursor that [`Self::write`] made.
    ///
    /// # Errors
    /// 422 for any other text.
    pub fn read<T: DeserializeOwned>(self, after: &str) -> Result<T, ApiError> {
        let read = URL_SAFE_NO_PAD.decode(after).ok();
        let read = read.and_then(|bytes| serde_json::from_slice::<(String, T)>(&bytes).ok());
        read.filter(|(tag, _)| tag == self.tag()).map(|(_, place)| place).ok_or_else(|| {
            let message = "after: expected the `next` of the page before, of the same list";
            ApiError::new(ErrorCode::InvalidQuery, message).param("after")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_by_its_own_list_only() {
        let place = ("a/b \u{e9}".to_owned(), 7i64, "x".to_owned());
        let cursor = CursorOf::Chunks.write(&place).unwrap();
        assert_eq!(CursorOf::Chunks.read::<(String, i64, String)>(&cursor).unwrap(), place);
        assert!(CursorOf::Documents.read::<(String, i64, String)>(&cursor).is_err());
        for wrong in ["", "x", "*", &cursor[1..], &URL_SAFE_NO_PAD.encode("[\"chunks\",7]")] {
            let error = CursorOf::Chunks.read::<(String, i64, String)>(wrong).unwrap_err().object();
            assert_eq!(
                (&error["code"], &error["param"]),
                (&"invalid_query".into(), &"after".into()),
                "{wrong}"
            );
        }
    }
}

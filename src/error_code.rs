//! The closed list of error codes that clients receive, with all that is fixed about each: HTTP status, error type,
//! whether to send again, and advice. Codes are part of the public contract. Pure.

use std::fmt;

/// What kind of error an answer reports: the field `type` of an error object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorType {
    /// The request has to be changed.
    InvalidRequest,
    /// The request is valid, but the service failed on this chunk and would fail again.
    ProcessingFailed,
    /// Too many requests are under way.
    Overloaded,
    /// The service or a part of it does not answer now.
    Unavailable,
    /// The service has a defect.
    Internal,
}

impl ErrorType {
    /// The name in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorType::InvalidRequest => "invalid_request",
            ErrorType::ProcessingFailed => "processing_failed",
            ErrorType::Overloaded => "overloaded",
            ErrorType::Unavailable => "unavailable",
            ErrorType::Internal => "internal",
        }
    }
}

/// What is fixed about an [`ErrorCode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorInfo {
    /// The stable name in answers and metrics, in snake case.
    pub code: &'static str,
    /// HTTP status of an answer that reports this error for the whole request.
    pub status: u16,
    /// The field `type` of the error object.
    pub error_type: ErrorType,
    /// Sending the same chunk or body again can succeed.
    pub retryable: bool,
    /// One line: what is wrong and what the client does about it.
    pub advice: &'static str,
}

macro_rules! error_codes {
    ($($name:ident $code:literal $status:literal $error_type:ident $retryable:literal $advice:literal;)+) => {
        /// An error code of the public contract.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $(#[doc = $advice] $name,)+
        }

        impl ErrorCode {
            /// Every code, in the order of the table.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$name),+];

            const TABLE: &[ErrorInfo] = &[$(ErrorInfo {
                code: $code,
                status: $status,
                error_type: ErrorType::$error_type,
                retryable: $retryable,
                advice: $advice,
            }),+];
        }
    };
}

// The codes up to `Draining` are also reasons for which a single chunk is rejected.
error_codes! {
    InvalidJson "invalid_json" 422 InvalidRequest false "The line or body is not JSON: send one JSON object a line.";
    InvalidUtf8 "invalid_utf8" 422 InvalidRequest false "The line or body is not UTF-8: encode it as UTF-8.";
    LineTooLong "line_too_long" 422 InvalidRequest false "The line is longer than 1 MiB: split the text into smaller chunks.";
    WrongType "wrong_type" 422 InvalidRequest false "A field has the wrong JSON type: see the message for the type that is expected.";
    UnknownField "unknown_field" 422 InvalidRequest false "A field or parameter of the request is not known, or a field of a chunk where `unknown_fields` is `refuse`: remove it, or move it into `metadata`.";
    MissingField "missing_field" 422 InvalidRequest false "A required field is missing or empty: add it. `POST /embed` without texts answers 400.";
    DuplicateKey "duplicate_key" 422 InvalidRequest false "An object has the same key twice: remove one.";
    TooManyKeys "too_many_keys" 422 InvalidRequest false "An object in `metadata` has more than 64 keys: send fewer.";
    TooManyLinks "too_many_links" 422 InvalidRequest false "`parent_cpe_ids` or `child_cpe_ids` has more than 64 links: send fewer.";
    MetadataTooLarge "metadata_too_large" 422 InvalidRequest false "`metadata` has more than 64 KiB of JSON or 1,024 values: send less.";
    CpeshTooLarge "cpesh_too_large" 422 InvalidRequest false "The CPESH fields have more than 64 KiB of JSON together, or a list of negatives has more than 16 texts: send less.";
    NestedTooDeep "nested_too_deep" 422 InvalidRequest false "Arrays and objects are nested deeper than 32 levels: flatten them.";
    NumberOutOfRange "number_out_of_range" 422 InvalidRequest false "A number does not fit into 64 bits: send it as text or as a fraction.";
    TextEmpty "text_empty" 422 InvalidRequest false "The text is empty or has only invisible characters: leave the chunk out.";
    TextTooLong "text_too_long" 422 InvalidRequest false "The text is longer than 64 KiB: split it.";
    NulCharacter "nul_character" 422 InvalidRequest false "PostgreSQL text cannot hold NUL: remove the character.";
    CodeOutOfRange "code_out_of_range" 422 InvalidRequest false "A TMD code is outside its axis: domain 0 to 15, task 0 to 31, modifier 0 to 63.";
    InvalidName "invalid_name" 422 InvalidRequest false "An id, dataset or other name is blank or longer than 512 bytes: shorten it.";
    InvalidProvenance "invalid_provenance" 422 InvalidRequest false "`tmd_source` and the fields beside it do not fit together, or the three codes are missing: send them as they were exported, or leave them out.";
    InvalidVector "invalid_vector" 422 InvalidRequest false "The vector cannot be one of the model that `vector_model` names: send it as it was exported, or leave it out.";
    IdConflict "id_conflict" 422 InvalidRequest false "The id is stored with other content: send the chunk under another id, or say with `on_conflict` what is wanted.";
    OtherDocument "other_document" 422 InvalidRequest false "The request replaces one document, and a field names another document or dataset: leave the field out, or send the chunk to its own document.";
    TmdFailed "tmd_failed" 422 ProcessingFailed false "No source could give TMD codes for this text: send the three codes, or report the text.";
    LlmFailed "llm_failed" 503 Unavailable true "The language model did not answer, and no other source may: send the chunk again.";
    EmbedFailed "embed_failed" 422 ProcessingFailed false "The model gives no usable vector for this text: change the text.";
    EmbedUnavailable "embed_unavailable" 503 Unavailable true "The embedding server failed: send the chunk again.";
    StoreFailed "store_failed" 422 ProcessingFailed false "PostgreSQL refused this row: read the message, it is the database's.";
    Poison "poison" 422 ProcessingFailed false "The chunk made a stage fail three times: it is kept as a dead letter.";
    Lost "lost" 503 Unavailable true "The outcome is unknown: send it again, what is stored is stored once.";
    SwitchingModel "switching_model" 503 Unavailable true "The store has another embedding model now, which the service is about to use: send again after `Retry-After`.";
    Draining "draining" 503 Unavailable true "The service is going down: send again what has no good result.";
    IncompleteBody "incomplete_body" 400 InvalidRequest true "The body ended early: send the upload again.";
    CorruptBody "corrupt_body" 400 InvalidRequest false "The compressed body is damaged: compress it again.";
    InflateRatio "inflate_ratio" 413 InvalidRequest false "The body inflates to more than 200 times its size: send it less compressed.";
    ClientNotReading "client_not_reading" 400 InvalidRequest true "The client does not read its results: read while sending, or ask for no stream.";
    ClientIdle "client_idle" 408 InvalidRequest true "The client sent nothing for too long: send the rest again.";
    ClientTooSlow "client_too_slow" 408 InvalidRequest true "The client sends too slowly: send the rest again on a faster connection.";
    Overloaded "overloaded" 429 Overloaded true "Too many uploads or requests are under way: send again after `Retry-After`.";
    Healing "healing" 503 Unavailable true "The pipeline is being rebuilt after a failure: send again after `Retry-After`.";
    StoreUnavailable "store_unavailable" 503 Unavailable true "PostgreSQL does not answer: send again after `Retry-After`.";
    ModelUnavailable "model_unavailable" 503 Unavailable true "The embedding model or classifier does not answer: send the request again.";
    IndexUnavailable "index_unavailable" 503 Unavailable true "The index does not answer: send the request again.";
    IndexBehind "index_behind" 503 Unavailable true "The index has not reached the requested commit: send the request again.";
    BodyTooLarge "body_too_large" 413 InvalidRequest false "The body has too many bytes or items: send less at once, or stream NDJSON.";
    UnsupportedMediaType "unsupported_media_type" 415 InvalidRequest false "The Content-Type is not supported: the message names those that are.";
    WrongFormat "wrong_format" 422 InvalidRequest false "The body is not in the format that the request names: the message says what it is and how to send it.";
    UnsupportedEncoding "unsupported_encoding" 415 InvalidRequest false "The Content-Encoding is not supported: use gzip, zstd or none.";
    InvalidQuery "invalid_query" 422 InvalidRequest false "A parameter is outside its range: the message says what is expected.";
    ConfirmationNeeded "confirmation_needed" 409 InvalidRequest false "A deletion has to say how many chunks it deletes: send it again with the `count` of this answer as `confirm`.";
    NoLanguageModel "no_language_model" 409 InvalidRequest false "The request needs a language model, and this service uses none: start it with `LNSP_TMD_BACKEND=llm` and `LNSP_LLM_ENDPOINT`.";
    InvalidIdempotencyKey "invalid_idempotency_key" 400 InvalidRequest false "The Idempotency-Key header cannot be used: the message says what is expected.";
    IdempotencyKeyReused "idempotency_key_reused" 422 InvalidRequest false "The Idempotency-Key belongs to another body: use a new key.";
    NotStored "not_stored" 404 InvalidRequest false "No chunk, document or dataset with this name is stored: check the name and `dataset_source`.";
    AmbiguousId "ambiguous_id" 409 InvalidRequest false "Several datasets have a chunk or document with this id: say which with `dataset_source`, or use the `cpe_id` of the chunk.";
    NotFound "not_found" 404 InvalidRequest false "There is nothing at this path: `GET /` lists the endpoints.";
    HostNotAllowed "host_not_allowed" 403 InvalidRequest false "The service listens on loopback and the request names another host: list it in `LNSP_ALLOWED_HOSTS`.";
    CrossSite "cross_site" 403 InvalidRequest false "A page of another site made the browser send the request: call the service from a program.";
    ConnectionEnding "connection_ending" 400 InvalidRequest false "The request before had a chunked body, which is the last of its connection: use a new connection.";
    MethodNotAllowed "method_not_allowed" 405 InvalidRequest false "The path does not take this method: `GET /` lists the endpoints.";
    Internal "internal" 500 Internal false "The service has a defect: the same chunks can be sent again, what is stored is stored once.";
}

impl ErrorCode {
    /// The row of this code in the table.
    pub fn info(self) -> &'static ErrorInfo {
        &Self::TABLE[self as usize]
    }

    /// The stable name in answers and metrics.
    pub fn as_str(self) -> &'static str {
        self.info().code
    }

    /// Sending the same chunk or body again can succeed.
    pub fn retryable(self) -> bool {
        self.info().retryable
    }

    /// The chunk was accepted and the service failed on it, so it is kept as a dead letter. Chunks that the client has
    /// to change, or that were never accepted, are not kept.
    pub fn is_kept(self) -> bool {
        matches!(
            self,
            ErrorCode::TmdFailed
                | ErrorCode::LlmFailed
                | ErrorCode::EmbedFailed
                | ErrorCode::EmbedUnavailable
                | ErrorCode::StoreFailed
                | ErrorCode::Poison
        )
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn codes_are_unique_and_in_snake_case_and_each_has_advice() {
        let codes: BTreeSet<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(codes.len(), ErrorCode::ALL.len());
        for code in ErrorCode::ALL {
            let info = code.info();
            assert!(info.code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
            assert!(info.advice.len() > 20 && info.advice.ends_with('.'), "{code}: {}", info.advice);
        }
    }

    #[test]
    fn each_code_has_its_own_row() {
        for (position, code) in ErrorCode::ALL.iter().enumerate() {
            assert_eq!(*code as usize, position);
            assert_eq!(code.info(), &ErrorCode::TABLE[position]);
            // The variant is the code in camel case.
            let words = code.as_str().split('_').map(|word| word[..1].to_uppercase() + &word[1..]);
            assert_eq!(words.collect::<String>(), format!("{code:?}"));
        }
    }

    #[test]
    fn the_type_follows_from_the_status() {
        for code in ErrorCode::ALL {
            let info = code.info();
            let expected = match info.status {
                429 => ErrorType::Overloaded,
                503 => ErrorType::Unavailable,
                500 => ErrorType::Internal,
                422 if code.is_kept() => ErrorType::ProcessingFailed,
                400..500 => ErrorType::InvalidRequest,
                other => panic!("{code}: status {other}"),
            };
            assert_eq!(info.error_type, expected, "{code}");
            let passes = matches!(info.status, 408 | 429 | 503);
            // Broken uploads: the status says that the body was wrong, but it can be sent again.
            let resend = matches!(code, ErrorCode::IncompleteBody | ErrorCode::ClientNotReading);
            assert_eq!(info.retryable, passes || resend, "{code}");
        }
    }
}

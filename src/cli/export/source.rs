//! Where the rows of an export come from: a service, or a database.

use super::arguments::{Export, FileFormat};
use super::error::ExportFailure;
use crate::chunk::{EncodingFormat, ExportRow, LineOptions};
use crate::cli::client;
use crate::cli::service_request::{error_message, send_until_admitted};
use crate::store::{ChunkExport, Dsn, Selection};
use bytes::Bytes;
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;

/// The lines of a service.
pub struct ServiceSource {
    response: Response,
    /// Bytes that have come: what may be the last line is held back.
    held: Vec<u8>,
    rows: u64,
    summary: Option<ExportSummary>,
}

/// The last line of an export.
#[derive(Debug, Deserialize)]
struct ExportSummary {
    rows: u64,
    complete: bool,
    vector_model: Option<String>,
    error: Option<Value>,
}

impl ServiceSource {
    /// Asks the service; waits while it has no room.
    pub async fn open(export: &Export) -> Result<ServiceSource, ExportFailure> {
        let url = export.url.at("/export");
        let is_table = export.format != FileFormat::Ndjson;
        let mut query =
            vec![("vectors", export.with_vectors.to_string()), ("row_fields", is_table.to_string())];
        if export.encoding() == EncodingFormat::Base64 {
            query.push(("encoding_format", "base64".to_owned()));
        }
        query.extend(export.dataset.clone().map(|dataset| ("dataset_source", dataset)));
        query.extend(export.document.clone().map(|document| ("document_id", document)));
        let unreachable = |error| ExportFailure::Unreachable { url: export.url.to_string(), error };
        let client = client().map_err(unreachable)?;
        let response = send_until_admitted(|| client.get(&url).query(&query)).await.map_err(unreachable)?;
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(ServiceSource { response, held: Vec::new(), rows: 0, summary: None });
        }
        let body: Value = response.json().await.unwrap_or_default();
        Err(ExportFailure::Refused { status: status.as_u16(), message: error_message(&body) })
    }

    /// Some whole lines of chunks; `None` at the end.
    pub async fn next_lines(&mut self) -> Result<Option<Vec<u8>>, ExportFailure> {
        loop {
            let piece = self.response.chunk().await;
            let piece =
                piece.map_err(|error| ExportFailure::Broken { rows: self.rows, error: Some(error) })?;
            let Some(piece) = piece else { break };
            if let Some(lines) = self.take(&piece) {
                return Ok(Some(lines));
            }
        }
        let last: Value = serde_json::from_slice(&self.held).unwrap_or_default();
        if last["type"] == "summary" {
            self.summary = serde_json::from_value(last).ok();
        }
        Ok(None)
    }

    /// The whole lines up to the last one, which stays here: it may be the last of all.
    fn take(&mut self, piece: &Bytes) -> Option<Vec<u8>> {
        self.held.extend_from_slice(piece);
        let last_feed = memchr::memrchr(b'\n', &self.held)?;
        let before = memchr::memrchr(b'\n', &self.held[..last_feed])?;
        let rest = self.held.split_off(before + 1);
        let lines = std::mem::replace(&mut self.held, rest);
        self.rows += memchr::memchr_iter(b'\n', &lines).count() as u64;
        Some(lines)
    }

    /// Checks that all lines have come; gives their number.
    pub fn check_complete(&self, received: u64) -> Result<u64, ExportFailure> {
        match &self.summary {
            None => Err(ExportFailure::Broken { rows: received, error: None }),
            Some(ExportSummary { complete: false, error, .. }) => {
                let message = error.as_ref().and_then(|error| error["message"].as_str());
                let message = message.unwrap_or("without a reason").to_owned();
                Err(ExportFailure::Ended { rows: received, message })
            }
            Some(ExportSummary { rows, .. }) if *rows != received => {
                Err(ExportFailure::Miscounted { sent: *rows, received })
            }
            Some(ExportSummary { rows, .. }) => Ok(*rows),
        }
    }

    /// The fingerprint of the model of the vectors, once the last line has come.
    pub fn vector_model(&self) -> Option<&str> {
        self.summary.as_ref().and_then(|summary| summary.vector_model.as_deref())
    }
}

/// The rows of a database.
pub struct DatabaseSource {
    export: ChunkExport,
    options: LineOptions,
}

impl DatabaseSource {
    /// Connects, and begins to read.
    pub async fn open(dsn: Dsn, selection: &Selection, wanted: &Export) -> Result<Self, ExportFailure> {
        let export = ChunkExport::of_database(dsn, selection, wanted.with_vectors).await?;
        let model = export.model().filter(|_| wanted.with_vectors);
        let vector_model = model.map(|model| model.fingerprint.clone());
        let options = LineOptions { encoding: wanted.encoding(), vector_model, row_fields: false };
        Ok(DatabaseSource { export, options })
    }

    /// How lines are written.
    pub fn line_options(&self) -> &LineOptions {
        &self.options
    }

    /// The fingerprint of the model of the vectors.
    pub fn vector_model(&self) -> Option<&str> {
        self.options.vector_model.as_deref()
    }

    /// The next rows; `None` after the last.
    pub async fn next_page(&mut self) -> Result<Option<Vec<ExportRow>>, ExportFailure> {
        Ok(self.export.next_page().await?)
    }

    /// Ends the session.
    pub async fn close(self) {
        self.export.close().await;
    }
}

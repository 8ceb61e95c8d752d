//! The flags that say how files are to be read.

use crate::input::Mapping;
use clap::Args;
use encoding_rs::Encoding;
use std::str::FromStr;

/// Which column is what.
#[derive(Debug, Args)]
pub struct MappingFlags {
    /// The column or field with the text; `a.b` is the field `b` inside of `a`.
    #[arg(long, value_name = "NAME", help_heading = "Columns")]
    text: Option<String>,
    /// The column or field with the id of the chunk.
    #[arg(long, value_name = "NAME", help_heading = "Columns")]
    id: Option<String>,
    /// The column or field with the id of the document.
    #[arg(long, value_name = "NAME", help_heading = "Columns")]
    document: Option<String>,
    /// The only columns that are kept as metadata, with commas between them. Without it: every column that is no field
    /// of a chunk.
    #[arg(long, value_name = "NAME,..", value_delimiter = ',', help_heading = "Columns")]
    metadata: Option<Vec<String>>,
    /// Gives a column the name of a field of a chunk, or another name in the metadata: `--map title=article_title`.
    #[arg(long = "map", value_name = "FROM=TO", value_parser = pair, help_heading = "Columns")]
    maps: Vec<(String, String)>,
    /// Leaves columns out.
    #[arg(long = "drop", value_name = "NAME,..", value_delimiter = ',', help_heading = "Columns")]
    dropped: Vec<String>,
    /// Gives all chunks the same value of a field or in the metadata: `--set source_document=handbook`.
    #[arg(long = "set", value_name = "FIELD=VALUE", value_parser = pair, help_heading = "Columns")]
    constants: Vec<(String, String)>,
}

/// Flags that contradict each other, or that name what cannot be named.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FlagError {
    /// Two columns for one field.
    #[error("two columns are to become `{0}`: name one of them")]
    Twice(String),
    /// The dataset is a property of the upload.
    #[error("the dataset is no field of a chunk: name it with --dataset")]
    Dataset,
}

impl MappingFlags {
    /// The mapping that the flags describe.
    ///
    /// # Errors
    /// See [`FlagError`].
    pub fn mapping(&self, skips_empty: bool) -> Result<Mapping, FlagError> {
        let named = [(&self.text, "text"), (&self.id, "id"), (&self.document, "document_id")];
        let named = named.into_iter().filter_map(|(column, field)| Some((column.clone()?, field.to_owned())));
        let fields: Vec<(String, String)> = named.chain(self.maps.iter().cloned()).collect();
        let mut seen: Vec<&str> = Vec::new();
        let targets = fields.iter().map(|(_, field)| field);
        for field in targets.chain(self.constants.iter().map(|(field, _)| field)) {
            if ["dataset", "dataset_source"].contains(&field.as_str()) {
                return Err(FlagError::Dataset);
            }
            if seen.contains(&field.as_str()) {
                return Err(FlagError::Twice(field.clone()));
            }
            seen.push(field);
        }
        Ok(Mapping {
            fields,
            metadata: self.metadata.clone(),
            dropped: self.dropped.clone(),
            constants: self.constants.clone(),
            skips_empty,
        })
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((from, to)) if !from.is_empty() && !to.is_empty() => Ok((from.to_owned(), to.to_owned())),
        _ => Err(format!("'{text}': expected two names with = between them")),
    }
}

/// An encoding by its label, as the web knows them.
#[derive(Debug, Clone, Copy)]
pub struct EncodingLabel(pub &'static Encoding);

impl FromStr for EncodingLabel {
    type Err = String;

    fn from_str(label: &str) -> Result<Self, String> {
        Encoding::for_label(label.as_bytes()).map(EncodingLabel).ok_or_else(|| {
            format!("the encoding is '{label}': expected a label like windows-1252, iso-8859-15, utf-16le or shift_jis")
        })
    }
}

/// What stands between the cells of a table: a character, or `tab`.
#[derive(Debug, Clone, Copy)]
pub struct Delimiter(pub u8);

impl FromStr for Delimiter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.as_bytes() {
            b"tab" | b"\\t" => Ok(Delimiter(b'\t')),
            [one] if *one != b'"' && !one.is_ascii_alphanumeric() && !matches!(*one, b'\n' | b'\r') => {
                Ok(Delimiter(*one))
            }
            _ => Err(format!("the delimiter is '{text}': expected one character like ; or |, or tab")),
        }
    }
}

//! JSON answers of known length that are given to the connection piece by piece.

use crate::http::limits::Permit;
use actix_web::HttpResponse;
use actix_web::body::SizedStream;
use bytes::Bytes;
use futures_util::stream;
use std::convert::Infallible;

/// The answer made of these pieces. The permit is held until the connection has taken the last one.
pub fn in_pieces(pieces: Vec<Bytes>, permit: Permit) -> HttpResponse {
    let length = pieces.iter().map(|piece| piece.len() as u64).sum();
    let pieces = pieces.into_iter().map(move |piece| {
        let _held = &permit;
        Ok::<_, Infallible>(piece)
    });
    let body = SizedStream::new(length, stream::iter(pieces));
    HttpResponse::Ok().content_type("application/json").body(body)
}

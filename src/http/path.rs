//! Paths of requests with a name in them: `/chunks/{id}`. A name is percent-encoded in its segment, so it may have any
//! characters, slashes too. The path is read as it was sent: the framework would replace bytes that are not UTF-8.

use crate::error_code::ErrorCode;
use crate::http::error::ApiError;
use crate::http::parameters::{check_name, quoted};
use actix_web::HttpRequest;
use percent_encoding::percent_decode_str;

/// Whether a path is one of a pattern. A segment of the pattern in braces is that of any name.
pub fn is_of_pattern(pattern: &str, path: &str) -> bool {
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some(wanted), Some(given)) if wanted == given || (is_name(wanted) && !given.is_empty()) => {}
            _ => return false,
        }
    }
}

fn is_name(segment: &str) -> bool {
    segment.starts_with('{') && segment.ends_with('}')
}

/// The name in the path of a request, its second segment; errors call it `param`. It is checked as the names of chunks
/// are.
///
/// # Errors
/// 422 for a name that is not UTF-8, or that no chunk can have.
pub fn name(request: &HttpRequest, param: &'static str) -> Result<String, ApiError> {
    let segment = request.uri().path().split('/').nth(2).unwrap_or_default();
    let name = percent_decode_str(segment).decode_utf8().map_err(|_| {
        let message = format!("{param}: {} in the path is not UTF-8", quoted(segment));
        ApiError::new(ErrorCode::InvalidUtf8, message).param(param)
    })?;
    check_name(param, &name)?;
    Ok(name.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    #[test]
    fn a_name_stands_for_one_segment() {
        let is = |path: &str| is_of_pattern("/documents/{id}/chunks", path);
        for path in ["/documents/a/chunks", "/documents/%2F%20/chunks", "/documents/{id}/chunks"] {
            assert!(is(path), "{path}");
        }
        for path in
            ["/documents//chunks", "/documents/a", "/documents/a/b/chunks", "/documents/a/chunks/", "/x"]
        {
            assert!(!is(path), "{path}");
        }
        assert!(is_of_pattern("/", "/") && !is_of_pattern("/chunks", "/chunks/"));
    }

    #[test]
    fn a_name_has_any_characters_and_is_checked() {
        let name = |segment: &str| {
            let request = TestRequest::with_uri(&format!("/chunks/{segment}?x=1")).to_http_request();
            name(&request, "id").map_err(|error| error.object()["code"].clone())
        };
        for (segment, expected) in [
            ("a", "a"),
            ("a%2Fb%20c+%25", "a/b c+%"),
            ("%C3%A9%F0%9F%98%80", "\u{e9}\u{1f600}"),
            ("%zz", "%zz"),
        ] {
            assert_eq!(name(segment).as_deref(), Ok(expected));
        }
        assert_eq!(name("%FF").unwrap_err(), "invalid_utf8");
        assert_eq!(name("a%00").unwrap_err(), "nul_character");
        assert_eq!(name(&"n".repeat(513)).unwrap_err(), "invalid_name");
    }
}

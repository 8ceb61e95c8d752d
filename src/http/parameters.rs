//! Parameters of requests: those in the query, and names that are compared with stored ones.

use crate::chunk;
use crate::error_code::ErrorCode;
use crate::http::error::ApiError;
use crate::http::request::rejection_error;
use crate::wire::{Name, WholeNumber, problem};
use actix_web::HttpRequest;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_urlencoded::Deserializer;
use url::form_urlencoded;

/// The most characters of a request that a message quotes.
const MAX_QUOTE: usize = 100;

/// Reads the query of a request.
///
/// # Errors
/// 422 that names the parameter: not UTF-8, unknown, given twice, missing, or not of its type.
pub fn of_query<T: DeserializeOwned>(request: &HttpRequest) -> Result<T, ApiError> {
    let query = request.query_string();
    check_encoding(query)?;
    let pairs = Deserializer::new(form_urlencoded::parse(query.as_bytes()));
    serde_path_to_error::deserialize(pairs).map_err(|error| {
        let path = Some(error.path().to_string()).filter(|path| path != ".").map(|path| quoted(&path));
        let problem = problem(&error.into_inner().to_string());
        let code = match problem.code {
            ErrorCode::WrongType | ErrorCode::NumberOutOfRange => ErrorCode::InvalidQuery,
            code => code,
        };
        let place = match (&path, &problem.field) {
            (Some(param), None) => format!("{param}: "),
            _ => String::new(),
        };
        let message = format!("query parameters: {place}{}", cut(&problem.message, 4 * MAX_QUOTE));
        let error = ApiError::new(code, message);
        match problem.field.or(path) {
            Some(param) => error.param(param),
            None => error,
        }
    })
}

/// A query without parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoParameters {}

/// Checks that the query of a request has no parameters, where the body says everything: one that is ignored would be
/// missed.
///
/// # Errors
/// 422 that names the parameter.
pub fn none(request: &HttpRequest) -> Result<(), ApiError> {
    of_query::<NoParameters>(request).map(|NoParameters {}| ())
}

/// The decoder would replace bytes that are not UTF-8, and the request would mean something else.
fn check_encoding(query: &str) -> Result<(), ApiError> {
    for pair in query.split('&') {
        if percent_decode_str(pair).decode_utf8().is_err() {
            let name = pair.split('=').next().unwrap_or_default();
            let name = quoted(&percent_decode_str(name).decode_utf8_lossy());
            let message = format!("query parameters: {name} is not UTF-8");
            return Err(ApiError::new(ErrorCode::InvalidUtf8, message).param(name));
        }
    }
    Ok(())
}

/// Checks a name that is compared with stored ones, as those of chunks are checked: others cannot be stored.
///
/// # Errors
/// 422 that names `param`.
pub fn check_name(param: &'static str, name: &str) -> Result<(), ApiError> {
    chunk::check_name(param, name).map_err(rejection_error)
}

/// The text of a name that is compared with stored ones, if there is one.
///
/// # Errors
/// As [`check_name`].
pub fn optional_name(param: &'static str, name: Option<Name>) -> Result<Option<String>, ApiError> {
    let name = name.map(|Name(name)| name);
    name.as_deref().map_or(Ok(()), |name| check_name(param, name))?;
    Ok(name)
}

/// The length of a page: `limit`, else `usual`, from 1 to `most`.
///
/// # Errors
/// 422 that names the range.
pub fn page_length(limit: Option<WholeNumber>, usual: u32, most: u32) -> Result<u32, ApiError> {
    let WholeNumber(limit) = limit.unwrap_or(WholeNumber(usual.into()));
    u32::try_from(limit).ok().filter(|limit| (1..=most).contains(limit)).ok_or_else(|| {
        let message = format!("limit: expected 1 to {most}, received '{limit}'");
        ApiError::new(ErrorCode::InvalidQuery, message).param("limit")
    })
}

/// The beginning of a text that the client sent, for a message.
pub fn quoted(text: &str) -> String {
    cut(text, MAX_QUOTE)
}

fn cut(text: &str, most: usize) -> String {
    let mut characters = text.chars();
    let mut cut: String = characters.by_ref().take(most).collect();
    if characters.next().is_some() {
        cut.push_str(" ...");
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Truth;
    use actix_web::test::TestRequest;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read from a query")]
    struct Parameters {
        name: String,
        number: Option<WholeNumber>,
        flag: Option<Truth>,
    }

    fn refused(query: &str) -> (String, String) {
        let request = TestRequest::with_uri(&format!("/x?{query}")).to_http_request();
        let error = of_query::<Parameters>(&request).unwrap_err().object();
        let text = |field: &str| error[field].as_str().unwrap_or_default().to_owned();
        assert!(text("message").len() < 500, "{error}");
        (text("code"), text("param"))
    }

    #[test]
    fn a_wrong_parameter_is_named() {
        let request = TestRequest::with_uri("/x?name=a%00b+%C3%A9&number=7&flag=true").to_http_request();
        assert_eq!(of_query::<Parameters>(&request).unwrap().name, "a\0b \u{e9}");
        let long = "n".repeat(10_000);
        for (query, code, param) in [
            ("", "missing_field", "name"),
            ("name=a&colour=red", "unknown_field", "colour"),
            ("name=a&name=b", "duplicate_key", "name"),
            ("name=a&number=abc", "invalid_query", "number"),
            ("name=a&number=", "invalid_query", "number"),
            ("name=a&number=1.5", "invalid_query", "number"),
            ("name=a&number=9223372036854775808", "invalid_query", "number"),
            ("name=a&flag=perhaps", "invalid_query", "flag"),
            ("name=%FF", "invalid_utf8", "name"),
            ("name=a&n%FF=a", "invalid_utf8", "n\u{fffd}"),
        ] {
            let (found, named) = refused(query);
            assert_eq!(found, code, "{query}");
            assert_eq!(named, param, "{query}");
        }
        assert_eq!(refused(&format!("{long}=1")).0, "unknown_field");
        for good in ["number=3.0", "number=005", "flag=True", "flag=1", "flag=no", "flag=YES"] {
            let request = TestRequest::with_uri(&format!("/x?name=a&{good}")).to_http_request();
            assert!(of_query::<Parameters>(&request).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_name_that_the_database_cannot_hold_is_named() {
        let refused = |name: &str| check_name("filter.x", name).err().map(|error| error.object());
        assert_eq!(refused("a\0").unwrap()["code"], "nul_character");
        assert_eq!(refused(&"a".repeat(513)).unwrap()["code"], "invalid_name");
        assert_eq!(refused("a\0").unwrap()["param"], "filter.x");
        assert_eq!((refused(""), refused(&"a".repeat(512))), (None, None));
    }
}

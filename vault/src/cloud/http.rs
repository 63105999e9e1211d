//! What a store answers in HTTP's own words, before `object_store` folds several of them into one error.
//!
//! - 429, and 503 as S3's `SlowDown` and Azure's `ServerBusy` have it: fewer requests are wanted, which is neither an outage nor a refusal.
//! - 409 of S3 to a conditional put: two writers met, and neither may have won. Azure says 409 where an object is there.

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};

/// Statuses that ask for fewer requests.
const TOO_MANY_REQUESTS: u16 = 429;
const SERVICE_UNAVAILABLE: u16 = 503;
const CONFLICT: u16 = 409;

/// An answer that is not for `object_store` to sort.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Special {
    /// Fewer requests are wanted.
    #[error("the store is asked for too much at once (HTTP {status})")]
    Throttled {
        /// HTTP's status.
        status: u16,
    },
    /// Whether the object was created is not decided.
    #[error("the store was asked for the same object by two at once, and decided for neither (HTTP 409)")]
    Undecided,
}

/// Which of the special answers a store gives.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// A conflict decides nothing.
    pub conflict_is_undecided: bool,
}

/// Connects as usual, and looks at the answers.
#[derive(Debug)]
pub struct Connector(pub Rules);

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Service { inner, rules: self.0 }))
    }
}

#[derive(Debug)]
struct Service {
    inner: HttpClient,
    rules: Rules,
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let answer = self.inner.execute(request).await?;
        match special(answer.status().as_u16(), self.rules) {
            None => Ok(answer),
            Some(special) => Err(HttpError::new(HttpErrorKind::Unknown, special)),
        }
    }
}

fn special(status: u16, rules: Rules) -> Option<Special> {
    match status {
        TOO_MANY_REQUESTS | SERVICE_UNAVAILABLE => Some(Special::Throttled { status }),
        CONFLICT if rules.conflict_is_undecided => Some(Special::Undecided),
        _ => None,
    }
}

/// The special answer behind an error of `object_store`, if there is one.
#[must_use]
pub fn special_of<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Special> {
    std::iter::successors(Some(error), |e| e.source()).find_map(|e| e.downcast_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_object_store_would_fold_is_taken_out() {
        let (s3, azure) = (Rules { conflict_is_undecided: true }, Rules { conflict_is_undecided: false });
        assert_eq!(special(503, azure), Some(Special::Throttled { status: 503 }));
        assert_eq!(special(429, s3), Some(Special::Throttled { status: 429 }));
        assert_eq!((special(409, s3), special(409, azure)), (Some(Special::Undecided), None));
        for status in [200, 206, 304, 403, 404, 412, 500] {
            assert_eq!(special(status, s3), None, "{status}");
        }
    }

    #[test]
    fn it_is_found_behind_other_errors() {
        let inner = HttpError::new(HttpErrorKind::Unknown, Special::Undecided);
        let error = object_store::Error::Generic { store: "S3", source: Box::new(inner) };
        assert_eq!(special_of(&error), Some(&Special::Undecided));
        assert_eq!(special_of(&std::io::Error::other("x")), None);
    }
}

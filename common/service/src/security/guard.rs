//! The one place where a call is let through or not: its rate, its credentials, its caller's rights.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::limits::Limits;
use super::refusals::{Reason, Refusals};
use super::rights::{self, Callers, Method};
use super::{Credentials, Peer, Role};

/// How long a call with one request and one answer may take, the arrival of the request included.
const UNARY_TIMEOUT: Duration = Duration::from_secs(30);

/// What a server's connections and calls share; a layer around its services.
#[derive(Clone)]
pub struct Guard(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) credentials: Credentials,
    pub(super) limits: Arc<Limits>,
    pub(super) refusals: Refusals,
}

impl Guard {
    pub(crate) fn new(credentials: Credentials) -> Self {
        super::metrics::describe();
        Reason::show_all();
        let limits = Arc::new(Limits::new(credentials.config()));
        Self(Arc::new(Shared {
            credentials,
            limits,
            refusals: Refusals::default(),
        }))
    }

    pub(crate) fn max_streams_per_connection(&self) -> u32 {
        self.0.credentials.config().max_streams_per_connection
    }

    /// Lets a call through, with the time it may take, or says why not.
    fn check<B>(&self, request: &Request<B>) -> Result<Option<Duration>, Status> {
        let method = rights::method(request.uri().path());
        let peer = request.extensions().get::<Peer>();
        let refused = match self.decide(method, peer, request.headers().get(AUTHORIZATION)) {
            Ok(()) => {
                // What a stranger may ask gives its connection no right to stay.
                let known = !self.0.credentials.config().keeps_strangers_out()
                    || method.is_some_and(|method| method.callers != Callers::Anybody);
                if let Some(peer) = peer.filter(|_| known) {
                    peer.called.store(true, Ordering::Relaxed);
                }
                let unary = method.is_some_and(|method| method.unary);
                return Ok(unary.then_some(UNARY_TIMEOUT));
            }
            Err(refused) => refused,
        };
        let address = peer.map(|peer| peer.address);
        self.0
            .refusals
            .note(refused.reason, address, &refused.message);
        Err(refused.status())
    }

    fn decide(
        &self,
        method: Option<&Method>,
        peer: Option<&Peer>,
        authorization: Option<&HeaderValue>,
    ) -> Result<(), Refused> {
        if let Some(peer) = peer
            && !self.0.limits.request(peer.address, Instant::now())
        {
            return Err(Refused::new(Reason::Rate, "too many calls a second"));
        }
        let config = self.0.credentials.config();
        if !config.keeps_strangers_out()
            || method.is_some_and(|method| method.callers == Callers::Anybody)
        {
            return Ok(());
        }
        // Where a certificate and a token are asked for, both must be good, and good for this.
        if config.asks_for_certificates() {
            let role = peer.and_then(|peer| peer.role).ok_or_else(|| {
                let expected = "expected a client certificate with a URI urn:pmpo:role:ROLE";
                Refused::new(Reason::NoCertificate, expected)
            })?;
            may_call(role, method)?;
        }
        if config.token_file.is_some() {
            may_call(self.token_role(authorization)?, method)?;
        }
        Ok(())
    }

    fn token_role(&self, authorization: Option<&HeaderValue>) -> Result<Role, Refused> {
        let token = authorization
            .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "))
            .ok_or_else(|| Refused::new(Reason::NoToken, "expected a bearer token"))?;
        let known = |material: &super::credentials::Material| {
            material
                .tokens
                .as_ref()
                .and_then(|tokens| tokens.role(token))
        };
        let credentials = &self.0.credentials;
        known(&credentials.material())
            .or_else(|| known(&credentials.newest_material()))
            .ok_or_else(|| Refused::new(Reason::WrongToken, "the bearer token is not known here"))
    }
}

fn may_call(role: Role, method: Option<&Method>) -> Result<(), Refused> {
    let allowed = match method {
        Some(method) => method.callers.include(role),
        None => role == Role::Admin,
    };
    if allowed {
        return Ok(());
    }
    let method = method.map_or("an unknown method", |method| method.path);
    let message = format!("role {role} may not call {method}");
    Err(Refused::new(Reason::Role, message))
}

struct Refused {
    reason: Reason,
    message: String,
}

impl Refused {
    fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }

    fn status(self) -> Status {
        match self.reason {
            Reason::Rate => Status::resource_exhausted(self.message),
            Reason::Role => Status::permission_denied(self.message),
            _ => Status::unauthenticated(self.message),
        }
    }
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            inner,
            guard: self.clone(),
        }
    }
}

/// Services behind a [`Guard`].
#[derive(Clone)]
pub struct Guarded<S> {
    inner: S,
    guard: Guard,
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.guard.check(&request) {
            Ok(None) => Box::pin(self.inner.call(request)),
            Ok(Some(timeout)) => {
                let call = tokio::time::timeout(timeout, self.inner.call(request));
                Box::pin(async move {
                    call.await.unwrap_or_else(|_| {
                        let late = format!("not done within {timeout:?}");
                        Ok(Status::deadline_exceeded(late).into_http())
                    })
                })
            }
            Err(status) => Box::pin(std::future::ready(Ok(status.into_http()))),
        }
    }
}

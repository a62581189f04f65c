//! The one place where a call is let through or not: its rate, its credentials, its caller's rights; and
//! where it is seen that what let it through is good no longer.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use rustls::pki_types::CertificateDer;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::Service;

use super::credentials::Material;
use super::door::Visit;
use super::refusals::{Reason, Refusals, Refused};
use super::rights::{self, Callers, Method};
use super::{Credentials, Role, tls};

/// How long a call with one request and one answer may take, the arrival of the request included.
const UNARY_TIMEOUT: Duration = Duration::from_secs(30);

/// The other side of a connection, over which all calls are one caller's.
pub(crate) struct Caller {
    visit: Visit,
    /// The role in its certificate, where it had to show one.
    role: Option<Role>,
    certificates: Vec<CertificateDer<'static>>,
    state: Mutex<CallerState>,
}

struct CallerState {
    /// Calls that it may make now; grows with time up to a second's worth.
    allowance: f64,
    since: Instant,
    /// The tokens that its calls were let through with, and whose they are.
    tokens: Vec<(HeaderValue, Role)>,
}

impl Caller {
    pub(crate) fn new(visit: Visit, certificates: Vec<CertificateDer<'static>>) -> Self {
        Self {
            visit,
            role: tls::role(&certificates),
            certificates,
            state: Mutex::new(CallerState {
                allowance: f64::INFINITY,
                since: Instant::now(),
                tokens: Vec::new(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, CallerState> {
        self.state.lock().expect("holders of the lock do not panic")
    }
}

impl CallerState {
    /// Whether it may make one more call, of so many a second.
    fn may_call(&mut self, rate: f64, now: Instant) -> bool {
        let earned = now.duration_since(self.since).as_secs_f64() * rate;
        self.allowance = (self.allowance + earned).min(rate);
        self.since = now;
        let may = self.allowance >= 1.0;
        if may {
            self.allowance -= 1.0;
        }
        may
    }
}

/// What decides over the calls of one server.
pub(crate) struct Guard {
    credentials: Credentials,
    refusals: Arc<Refusals>,
}

impl Guard {
    pub(crate) fn new(credentials: Credentials, refusals: Arc<Refusals>) -> Self {
        Self {
            credentials,
            refusals,
        }
    }

    pub(crate) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    pub(crate) fn max_streams_per_connection(&self) -> u32 {
        self.credentials.config().max_streams_per_connection
    }

    /// Makes the call, or answers why not.
    pub(crate) fn call(
        &self,
        caller: &Caller,
        mut routes: Routes,
        request: Request<Body>,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + Send + use<> {
        let checked = self.check(caller, &request);
        async move {
            let timeout = match checked {
                Ok(timeout) => timeout,
                Err(status) => return Ok(status.into_http()),
            };
            let call = routes.call(request);
            let Some(timeout) = timeout else {
                return call.await;
            };
            tokio::time::timeout(timeout, call)
                .await
                .unwrap_or_else(|_| {
                    let late = format!("not done within {timeout:?}");
                    Ok(Status::deadline_exceeded(late).into_http())
                })
        }
    }

    /// Lets a call through, with the time it may take, or says why not.
    fn check<B>(&self, caller: &Caller, request: &Request<B>) -> Result<Option<Duration>, Status> {
        let method = rights::method(request.uri().path());
        match self.decide(method, caller, request.headers().get(AUTHORIZATION)) {
            Ok(()) => {
                // What a stranger may ask gives its connection no right to stay.
                let known = !self.credentials.config().keeps_strangers_out()
                    || method.is_some_and(|method| method.callers != Callers::Anybody);
                if known {
                    caller.visit.settled.cancel();
                }
                let unary = method.is_some_and(|method| method.unary);
                Ok(unary.then_some(UNARY_TIMEOUT))
            }
            Err(Refused { reason, message }) => {
                self.refusals
                    .note(reason, Some(caller.visit.address), &message);
                Err(match reason {
                    Reason::Rate => Status::resource_exhausted(message),
                    Reason::Role => Status::permission_denied(message),
                    _ => Status::unauthenticated(message),
                })
            }
        }
    }

    fn decide(
        &self,
        method: Option<&Method>,
        caller: &Caller,
        authorization: Option<&HeaderValue>,
    ) -> Result<(), Refused> {
        let config = self.credentials.config();
        let rate = config.max_requests_per_second_per_connection.into();
        if !caller.state().may_call(rate, Instant::now()) {
            return Err(Refused::new(Reason::Rate, "too many calls a second"));
        }
        if !config.keeps_strangers_out()
            || method.is_some_and(|method| method.callers == Callers::Anybody)
        {
            return Ok(());
        }
        // Where a certificate and a token are asked for, both must be good, and good for this.
        if config.asks_for_certificates() {
            let role = caller.role.ok_or_else(|| {
                let expected = "expected a client certificate with a URI urn:pmpo:role:ROLE";
                Refused::new(Reason::NoCertificate, expected)
            })?;
            may_call(role, method)?;
        }
        if config.token_file.is_some() {
            let shown = authorization
                .ok_or_else(|| Refused::new(Reason::NoToken, "expected a bearer token"))?;
            let role = self.token_role(shown)?;
            may_call(role, method)?;
            let mut state = caller.state();
            if state.tokens.iter().all(|(token, _)| token != shown) {
                state.tokens.push((shown.clone(), role));
            }
        }
        Ok(())
    }

    fn token_role(&self, shown: &HeaderValue) -> Result<Role, Refused> {
        let known = |material: &Material| material.token_role(shown);
        known(&self.credentials.material())
            .or_else(|| known(&self.credentials.newest_material()))
            .ok_or_else(|| Refused::new(Reason::WrongToken, "the bearer token is not known here"))
    }

    /// Ends when something that let the caller's calls through is good no longer.
    pub(crate) async fn withdrawn(&self, caller: &Caller) {
        let mut changes = self.credentials.changes();
        while changes.changed().await.is_ok() {
            let material = self.credentials.material();
            let of_token = |(token, role): &(HeaderValue, Role)| {
                material.token_role(token).as_ref() == Some(role)
            };
            if !material.trusts(&caller.certificates) || !caller.state().tokens.iter().all(of_token)
            {
                return;
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_bounded_by_a_rate_and_a_burst_of_one_second() {
        let start = Instant::now();
        let mut state = CallerState {
            allowance: f64::INFINITY,
            since: start,
            tokens: Vec::new(),
        };
        let mut allowed = |at: Duration| {
            let calls = (0..100).filter(|_| state.may_call(10.0, start + at));
            calls.count()
        };
        assert_eq!(allowed(Duration::ZERO), 10);
        assert_eq!(allowed(Duration::from_millis(500)), 5);
        assert_eq!(allowed(Duration::from_secs(60)), 10);
    }
}

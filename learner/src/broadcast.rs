//! `Weights.Subscribe`: each publication is encoded once, and every subscriber is sent the same bytes.
//!
//! tonic encodes a message for each stream that it goes to, into a buffer of the stream's own. So the
//! generated service does all but that: it reads requests and refuses those that cannot be, and where
//! the handler has left a [`Subscription`] in the response, [`Broadcast`] puts [`Frames`] in the place
//! of the body. The HTTP/2 connection then writes from the shared bytes.
//!
//! A connection asks for a frame when it has room to send, and gets the newest. So a subscriber that is
//! slow skips, and one that never reads holds on to one publication and its window, whatever is
//! published meanwhile.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::metrics::{Counter, counter};
use bytes::Bytes;
use http_body::Frame;
use pmpo_proto::v1::weights_server::WeightsServer;
use pmpo_proto::{WireError, v1};
use tokio::sync::watch;
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service as HttpService, http};
use tonic::server::NamedService;
use tonic::{Code, Status};

use crate::metrics;
use crate::service::Service;

/// A snapshot, and the same as it goes to every subscriber.
#[derive(Clone, Debug, Default)]
pub(crate) struct Publication {
    pub(crate) version: u64,
    pub(crate) learner_step: u64,
    pub(crate) weights: Bytes,
    frame: Bytes,
}

impl Publication {
    /// Encodes the snapshot.
    ///
    /// # Errors
    /// It is too large for a message.
    pub(crate) fn new(snapshot: v1::PolicySnapshot) -> Result<Self, WireError> {
        let frame = pmpo_proto::frame("policy snapshot", &snapshot)?;
        counter!(metrics::SNAPSHOT_ENCODINGS).increment(1);
        Ok(Self {
            version: snapshot.version,
            learner_step: snapshot.learner_step,
            weights: snapshot.weights,
            frame,
        })
    }
}

/// What a handler leaves in the extensions of its response to have the publications sent.
#[derive(Clone)]
pub(crate) struct Subscription(pub(crate) watch::Receiver<Publication>);

/// The generated service with shared bodies.
#[derive(Clone, Debug)]
pub(crate) struct Broadcast(WeightsServer<Service>);

impl Broadcast {
    pub(crate) fn new(service: Service) -> Self {
        Self(WeightsServer::new(service))
    }
}

impl NamedService for Broadcast {
    const NAME: &'static str = <WeightsServer<Service> as NamedService>::NAME;
}

impl HttpService<http::Request<Body>> for Broadcast {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move {
            let mut response = answer.await?;
            Ok(match response.extensions_mut().remove::<Subscription>() {
                Some(subscription) => response.map(|_| Body::new(Frames::new(subscription))),
                None => response,
            })
        })
    }
}

/// The body of a subscription: the newest publication whenever there is room for one.
struct Frames {
    publications: WatchStream<Publication>,
    sent: Counter,
    ended: bool,
}

impl Frames {
    fn new(subscription: Subscription) -> Self {
        Self {
            publications: WatchStream::new(subscription.0),
            sent: counter!(metrics::SNAPSHOTS_SENT),
            ended: false,
        }
    }
}

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = match ready!(Pin::new(&mut self.publications).poll_next(context)) {
            Some(publication) => {
                self.sent.increment(1);
                Frame::data(publication.frame)
            }
            None => {
                self.ended = true;
                let status = (Status::GRPC_STATUS, (Code::Ok as i32).into());
                Frame::trailers(http::HeaderMap::from_iter([status]))
            }
        };
        Poll::Ready(Some(Ok(frame)))
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;

    use super::*;

    fn publication(version: u64) -> Publication {
        Publication::new(v1::PolicySnapshot {
            version,
            weights: vec![7; 1000].into(),
            ..v1::PolicySnapshot::default()
        })
        .unwrap()
    }

    fn poll(body: &mut Frames) -> Poll<Option<Frame<Bytes>>> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        let polled = Pin::new(body).poll_frame(&mut context);
        polled.map(|frame| frame.map(|frame| frame.expect("no errors")))
    }

    fn data(body: &mut Frames) -> Bytes {
        match poll(body) {
            Poll::Ready(Some(frame)) => frame.into_data().expect("data"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn all_subscribers_share_the_bytes_and_skip_to_the_newest() {
        let sender = watch::Sender::new(publication(1));
        let subscribe = || Frames::new(Subscription(sender.subscribe()));
        let (mut fast, mut slow) = (subscribe(), subscribe());
        let first = data(&mut fast);
        assert_eq!(first.as_ptr(), sender.borrow().frame.as_ptr());
        assert_eq!(first.as_ptr(), data(&mut slow).as_ptr());
        assert!(poll(&mut fast).is_pending());
        for version in 2..5 {
            sender.send_replace(publication(version));
            assert_eq!(data(&mut fast), sender.borrow().frame);
        }
        assert_eq!(data(&mut slow), publication(4).frame);
        assert!(poll(&mut slow).is_pending());
    }

    #[test]
    fn a_subscription_ends_well_with_the_run() {
        let sender = watch::Sender::new(publication(1));
        let mut body = Frames::new(Subscription(sender.subscribe()));
        data(&mut body);
        drop(sender);
        let Poll::Ready(Some(frame)) = poll(&mut body) else {
            panic!("trailers");
        };
        assert_eq!(frame.trailers_ref().unwrap()["grpc-status"], "0");
        assert!(matches!(poll(&mut body), Poll::Ready(None)));
    }
}

//! What every gRPC server of ours offers beside its own services: `grpc.health.v1`, which follows the
//! role's [`Readiness`], and reflection (v1, and v1alpha for older tools).

use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::pb::FILE_DESCRIPTOR_SET as HEALTH_DESCRIPTORS;
use tonic_health::server::{HealthReporter, health_reporter};
use tonic_reflection::server::Builder;

use crate::readiness::Readiness;

/// Health of `services` and of the server as a whole (the empty name), and reflection of the encoded
/// `FileDescriptorSet`.
///
/// # Panics
/// If `descriptors` is not one: it comes from our own build.
pub async fn routes(
    readiness: &Readiness,
    services: &'static [&'static str],
    descriptors: &'static [u8],
) -> Routes {
    let (reporter, health) = health_reporter();
    report(&reporter, services, readiness).await;
    tokio::spawn(follow(reporter, services, readiness.clone()));
    let reflection = |itself: &str| {
        let builder = Builder::configure()
            .register_encoded_file_descriptor_set(descriptors)
            .register_encoded_file_descriptor_set(HEALTH_DESCRIPTORS);
        // The descriptors are of more services than this port has.
        let served = services.iter().chain([&"grpc.health.v1.Health", &itself]);
        served.fold(builder, |builder, name| builder.with_service_name(*name))
    };
    let valid = "our own descriptors are valid";
    Routes::new(health)
        .add_service(
            reflection("grpc.reflection.v1.ServerReflection")
                .build_v1()
                .expect(valid),
        )
        .add_service(
            reflection("grpc.reflection.v1alpha.ServerReflection")
                .build_v1alpha()
                .expect(valid),
        )
}

/// Ends with the role.
async fn follow(reporter: HealthReporter, services: &'static [&'static str], readiness: Readiness) {
    let mut seen = readiness.subscribe();
    loop {
        report(&reporter, services, &readiness).await;
        if !readiness.changed(&mut seen).await {
            break;
        }
    }
    report(&reporter, services, &readiness).await;
}

async fn report(reporter: &HealthReporter, services: &[&str], readiness: &Readiness) {
    let status = match readiness.check() {
        Ok(()) => ServingStatus::Serving,
        Err(_) => ServingStatus::NotServing,
    };
    for service in services.iter().chain([&""]) {
        reporter.set_service_status(service, status).await;
    }
}

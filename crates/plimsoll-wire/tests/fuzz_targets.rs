//! The fuzz targets of `fuzz/` on a bounded number of inputs: seeds and deterministic mutations.

#[allow(unreachable_pub)] // Public for the fuzz targets.
#[path = "../../../fuzz/src/replay.rs"]
mod replay;
#[allow(unreachable_pub)] // Public for the fuzz targets.
#[path = "../../../fuzz/src/wire.rs"]
mod wire;

use replay::replay;

/// Mutated inputs of each target.
const MUTATIONS: usize = 4000;

macro_rules! fuzz_tests {
    ($($target:ident),+ $(,)?) => {$(
        #[test]
        fn $target() {
            replay(stringify!($target), MUTATIONS, wire::$target);
        }
    )+};
}

fuzz_tests!(
    base64,
    client_hello,
    grpc,
    grpc_web,
    http1_body,
    http1_fields,
    http1_request,
    http1_response,
    mqtt_connack,
    mqtt_connect,
    mqtt_packets,
    orca,
    protobuf,
    proxy_protocol,
);

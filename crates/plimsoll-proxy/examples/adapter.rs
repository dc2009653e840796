//! A custom protocol: meters send their number in the first line and stay at their collector.
//!
//! ```text
//! meter:     METER 4711\n
//! collector: OK\n          (or BUSY\n: the next collector is tried)
//! then bytes in both directions
//! ```

use plimsoll_config::{Extensions, load_with};
use plimsoll_core::hash::hash;
use plimsoll_proxy::adapter::{Adapter, Adapters, Connection, Detection, Fault, UpstreamFault};
use plimsoll_proxy::{ConfigSource, Proxy};

const PREFIX: &[u8] = b"METER ";
/// Maximum length of the first line.
const MAX_LINE: usize = 64;
const BUSY: &[u8] = b"BUSY\n";

#[derive(Debug)]
struct Meters;

impl Adapter for Meters {
    fn name(&self) -> &'static str {
        "meters"
    }

    // Used by listeners with `protocol: auto`.
    fn detect(&self, first: &[u8]) -> Detection {
        Detection::by_prefix(first, PREFIX)
    }

    fn serve(&self, connection: Connection) {
        Connection::spawn(serve(connection));
    }
}

async fn serve(mut connection: Connection) {
    let limit = connection.limit(connection.timeout());
    let line = match limit.within(read_line(&mut connection)).await {
        Some(Ok(line)) => line,
        Some(Err(fault)) => return connection.refuse(fault),
        None => return connection.refuse(Fault::TooSlow),
    };
    let Some(mut session) = connection.route("METERS") else { return };
    let number = hash(line.trim_ascii());
    // Each attempt uses another collector; `next` itself skips unreachable ones.
    while let Ok(mut collector) = session.next(Some(number)).await {
        let limit = session.limit(session.response_timeout());
        let greeting = async {
            collector.write_all(&line).await.ok()?;
            while !collector.buffer().contains(&b'\n') {
                collector.read().await.ok().filter(|&n| n > 0)?;
            }
            Some(collector.buffer().starts_with(b"OK"))
        };
        let upstream_fault = match limit.within(greeting).await {
            Some(Some(true)) => {
                session.served(&mut collector);
                return session.relay(connection, collector).await;
            }
            Some(_) => UpstreamFault::Refused,
            None => UpstreamFault::TimedOut,
        };
        if session.failed(collector, upstream_fault).is_err() {
            break;
        }
    }
    let _best_effort = connection.write_all(BUSY).await;
}

/// Reads the first line; bytes after it stay in the connection's buffer.
async fn read_line(connection: &mut Connection) -> Result<Vec<u8>, Fault> {
    loop {
        let buffer = connection.buffer();
        if let Some(end) = buffer.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            return if line.starts_with(PREFIX) { Ok(line) } else { Err(Fault::Malformed) };
        }
        if buffer.len() > MAX_LINE {
            return Err(Fault::TooLarge);
        }
        if !matches!(connection.read().await, Ok(1..)) {
            return Err(Fault::Malformed);
        }
    }
}

/// Starts a proxy that supports the protocol `meters`.
async fn start(file: String) -> Result<Proxy, Box<dyn std::error::Error>> {
    let adapters = Adapters::built_in().with(Meters);
    let extensions = Extensions { protocols: adapters.names(), ..Extensions::default() };
    let read = move || {
        let env = |name: &str| std::env::var(name).ok();
        let loaded = load_with(&file, "meters.yaml", ".".as_ref(), &env, &extensions);
        let text = plimsoll_config::render_text(&loaded.problems, &loaded.sources);
        loaded.config.ok_or_else(|| text.as_str().into())
    };
    let config = read().map_err(|invalid: plimsoll_proxy::InvalidConfig| invalid.text)?;
    let source: ConfigSource = Box::new(read);
    Ok(Proxy::start(config, source, adapters).await?)
}

const FILE: &str = r#"
listeners:
  - {name: meters, address: "127.0.0.1:4711", protocol: meters, pool: collectors}
pools:
  collectors: {destinations: ["127.0.0.1:4801", "127.0.0.1:4802"]}
"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let _proxy = start(FILE.to_owned()).await?;
        println!("listening for meters on 127.0.0.1:4711; stop with Ctrl-C");
        Ok(tokio::signal::ctrl_c().await?)
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// Starts a collector that sends `greeting` for the first line, and its name for every other.
    fn collector(name: &'static str, greeting: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                    for (n, line) in lines.map_while(Result::ok).enumerate() {
                        let reply = if n == 0 { greeting.to_owned() } else { format!("{name} got {line}\n") };
                        if stream.write_all(reply.as_bytes()).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        address
    }

    /// Sends `text` as a meter and returns the lines it receives.
    fn call(port: u16, text: &str) -> Vec<String> {
        let mut meter = TcpStream::connect(("127.0.0.1", port)).unwrap();
        meter.write_all(text.as_bytes()).unwrap();
        meter.shutdown(std::net::Shutdown::Write).unwrap();
        BufReader::new(meter).lines().map_while(Result::ok).collect()
    }

    /// Runs `work` with the port of a proxy in front of these collectors.
    fn with_balancer(collectors: &[String], work: impl FnOnce(u16) + Send + 'static) {
        let file = format!(
            "admin: false\nlisteners: [{{name: m, address: \"127.0.0.1:0\", protocol: meters, pool: p}}]\n\
             pools: {{p: {{destinations: {collectors:?}}}}}"
        );
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let proxy = start(file).await.unwrap();
            let address = proxy.handle().traffic().listeners[0].addresses[0].clone();
            let port = address.rsplit(':').next().unwrap().parse().unwrap();
            tokio::task::spawn_blocking(move || work(port)).await.unwrap();
        });
    }

    #[test]
    fn meters_stay_at_their_collector_and_are_spread() {
        let collectors = [collector("a", "OK\n"), collector("b", "OK\n")];
        with_balancer(&collectors, |port| {
            let collector_of = |meter: u32| {
                let lines = call(port, &format!("METER {meter}\nreading\n"));
                assert_eq!(lines[0], "OK");
                lines[1].clone()
            };
            let first: Vec<String> = (0..20).map(collector_of).collect();
            assert_eq!((0..20).map(collector_of).collect::<Vec<_>>(), first);
            assert!(
                first.contains(&"a got reading".to_owned()) && first.contains(&"b got reading".to_owned())
            );
        });
    }

    #[test]
    fn busy_collectors_are_skipped_and_reported_if_all_are_busy() {
        with_balancer(&[collector("busy", "BUSY\n"), collector("free", "OK\n")], |port| {
            for meter in 0..5 {
                assert_eq!(call(port, &format!("METER {meter}\nx\n")), ["OK", "free got x"]);
            }
        });
        with_balancer(&[collector("busy", "BUSY\n")], |port| {
            assert_eq!(call(port, "METER 1\n"), ["BUSY"]);
            assert!(call(port, "something else\n").is_empty());
        });
    }
}

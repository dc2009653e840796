//! Balances messages of a program over three local echo servers, item of which is down.
//!
//! `cargo run -p plimsoll --example embed`

use std::error::Error;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use plimsoll::{Algorithm, Destination, Failure, LoadBalancer, LoadBalancingConfig, Outcome};

/// Starts an echo server on a free port.
fn start_echo_server() -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            let mut message = [0; 64];
            let sent = connection.read(&mut message).and_then(|n| connection.write_all(&message[..n]));
            if let Err(error) = sent {
                eprintln!("echo server: {error}");
            }
        }
    });
    Ok(address)
}

/// Returns an address without a server.
fn unused_address() -> std::io::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

fn send(address: &str, message: &str) -> Result<String, Failure> {
    let mut connection = TcpStream::connect(address).map_err(|_| Failure::Connect)?;
    connection.write_all(message.as_bytes()).map_err(|_| Failure::Reset)?;
    let mut response = String::new();
    connection.read_to_string(&mut response).map_err(|_| Failure::Reset)?;
    if response.is_empty() { Err(Failure::EmptyResponse) } else { Ok(response) }
}

fn main() -> Result<(), Box<dyn Error>> {
    let destinations = [
        Destination::new("strong", start_echo_server()?).with_weight(3),
        Destination::new("weak", start_echo_server()?),
        Destination::new("down", unused_address()?),
    ];
    let config = LoadBalancingConfig::with_algorithm(Algorithm::WeightedRoundRobin);
    let balancer = LoadBalancer::new(&destinations, &config)?;

    for n in 1..=30 {
        // An echo may be repeated, so a failed message is sent to the next destination.
        let mut assignment = balancer.pick()?;
        loop {
            match send(&assignment.destination().address, &format!("message {n}")) {
                Ok(_) => break assignment.responded(200),
                Err(failure) => assignment = assignment.failover(Outcome::Failed(failure))?,
            }
        }
    }

    // The 31st message, with the state of the pool.
    let result = balancer.balance_load()?;
    println!("next: {}", result.selected_destination.id);
    println!(
        "health: {:?}, {} of {}",
        result.health_status.state,
        result.health_status.serving,
        destinations.len()
    );
    for item in &result.load_distribution.destinations {
        println!(
            "{}: share {:.2}, intended {:.2}",
            item.id,
            item.share.unwrap_or_default(),
            item.intended_share
        );
    }
    for item in &result.performance.destinations {
        println!("{}: {} outcomes, error rate {:?}", item.id, item.samples, item.error_rate);
    }
    for item in &result.recommendations {
        println!("{} ({})", item.message, item.evidence.join("; "));
    }
    result.assignment.responded(200);
    Ok(())
}

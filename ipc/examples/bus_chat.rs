//! A chat over streams of the bus: `bus_chat serve` waits for one conversation, `bus_chat DEVICE` begins one (`loopback` is this machine).
//! Lines that are typed go to the other side, and what the other side types is printed.

use std::error::Error;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::thread;

use netd_ipc::services::{BusStream, Client};

const SERVICE: &str = "chat";

fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::default_paths();
    let stream = match std::env::args().nth(1).as_deref() {
        Some("serve") => client.serve_bus(SERVICE)?.accept()?,
        Some(device) => client.open_bus(device, SERVICE, None, None)?,
        None => return Err("give 'serve', or the device to talk to".into()),
    };
    println!("connected with {}", stream.device());
    let typed = stream.try_clone()?;
    // It ends with the program, whether or not somebody still types.
    thread::spawn(move || send_lines(&typed));
    // An end of file is the other side's goodbye; a stream that was cut short is an error here.
    for line in BufReader::new(stream).lines() {
        println!("> {}", line?);
    }
    Ok(())
}

fn send_lines(mut stream: &BusStream) -> io::Result<()> {
    for line in io::stdin().lock().lines() {
        writeln!(stream, "{}", line?)?;
    }
    stream.shutdown_write()
}

//! The programs on the hosts: this same executable under another name. Applications that answer, callers that print what
//! became of one call, and a sniffer. None of them knows of a sidecar.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::ExitCode,
    sync::Arc,
    thread,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, Stream,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject},
};
use socket2::{Domain, Protocol, Socket, Type};

pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["http", listen] => http(listen),
        ["echo", listen] => echo(listen),
        ["echo-udp", listen] => echo_udp(listen),
        ["tls", listen, certificate] => tls(listen, certificate),
        ["sniff", marker] => sniff(marker),
        ["get", address, path] => println!("{}", told(get(address, path))),
        ["get-as", host, address, path] => println!("{}", told(get_as(host, address, path))),
        ["gets", address, path, count] => gets(address, path, count.parse().unwrap()),
        ["say", address, text] => println!("{}", told(say(address, text))),
        ["say-tls", name, address, certificate, text] => {
            println!("{}", told(say_tls(name, address, certificate, text)));
        }
        ["say-udp", address, text] => println!("{}", told(say_udp(address, text))),
        ["say-raw", protocol, address, text] => {
            println!("{}", told(say_raw(protocol.parse().unwrap(), address, text)));
        }
        ["talk", address, text] => talk(address, text),
        _ => panic!("{words:?}"),
    }
    ExitCode::SUCCESS
}

/// Answers every request with 200 and the identity that its caller had, one connection for each.
fn http(listen: &str) {
    serve(listen, |stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        loop {
            let mut peer = "nobody".to_owned();
            let mut first = String::new();
            if reader.read_line(&mut first).unwrap_or(0) == 0 {
                return;
            }
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
                if line.trim().is_empty() {
                    break;
                }
                if let Some(id) = line.to_ascii_lowercase().strip_prefix("x-sidegate-peer:") {
                    id.trim().clone_into(&mut peer);
                }
            }
            eprintln!("request: {}", first.trim());
            let body = format!("hello {peer}");
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            if (&*stream).write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    });
}

/// Says every line back.
fn echo(listen: &str) {
    serve(listen, |stream| {
        for line in BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok) {
            eprintln!("line: {line}");
            if writeln!(&*stream, "echo {line}").is_err() {
                return;
            }
        }
    });
}

/// Says one line back over TLS of its own, as `localhost`. The certificate is written to the file for whoever is to trust it.
fn tls(listen: &str, certificate: &str) {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()).into();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    std::fs::write(certificate, own.cert.pem()).unwrap();
    let config = Arc::new(config);
    serve(listen, move |stream| {
        let mut session = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = stream;
        let mut reader = BufReader::new(Stream::new(&mut session, &mut stream));
        let mut line = String::new();
        if reader.read_line(&mut line).is_ok() {
            let _ = write!(reader.get_mut(), "echo {line}");
        }
    });
}

fn echo_udp(listen: &str) {
    let socket = UdpSocket::bind(listen).unwrap();
    eprintln!("listening");
    let mut bytes = [0; 1500];
    while let Ok((length, from)) = socket.recv_from(&mut bytes) {
        eprintln!("datagram: {}", String::from_utf8_lossy(&bytes[..length]));
        let _ = socket.send_to(&bytes[..length], from);
    }
}

fn serve(listen: &str, answer: impl Fn(&TcpStream) + Clone + Send + 'static) {
    let listener = TcpListener::bind(listen).unwrap();
    eprintln!("listening");
    for stream in listener.incoming().map_while(Result::ok) {
        let answer = answer.clone();
        thread::spawn(move || answer(&stream));
    }
}

/// Prints each frame on any interface of this host that has `marker` in it.
fn sniff(marker: &str) {
    // ETH_P_ALL, in network order.
    let all = Protocol::from(i32::from(3_u16.to_be()));
    let mut socket = Socket::new(Domain::PACKET, Type::RAW, Some(all)).unwrap();
    eprintln!("listening");
    let mut frame = vec![0; 65536];
    while let Ok(length) = socket.read(&mut frame) {
        if frame[..length].windows(marker.len()).any(|window| window == marker.as_bytes()) {
            eprintln!("plaintext: {}", frame[..length].escape_ascii());
        }
    }
}

fn get(address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = connected(address)?;
    request(&mut stream, path)
}

/// Asks whoever is at the address for another host.
fn get_as(host: &str, address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = connected(address)?;
    request_as(host, &mut stream, path)
}

/// Many requests, each third on a connection of its own; prints how many were answered with 200.
fn gets(address: &str, path: &str, count: usize) {
    let mut kept = connected(address).unwrap();
    let mut answered = 0;
    for number in 0..count {
        let answer = if number % 3 == 0 { get(address, path) } else { request(&mut kept, path) };
        match answer {
            Ok(answer) if answer.starts_with("200") => answered += 1,
            other => eprintln!("request {number}: {other:?}"),
        }
        println!("{answered}");
    }
}

/// The status and the body of one answer.
fn request(stream: &mut TcpStream, path: &str) -> std::io::Result<String> {
    request_as("payments", stream, path)
}

fn request_as(host: &str, stream: &mut TcpStream, path: &str) -> std::io::Result<String> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes())?;
    let mut reader = BufReader::new(stream);
    let (mut status, mut length) = (String::new(), 0);
    reader.read_line(&mut status)?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if line.trim().is_empty() {
            break;
        }
        if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = text.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let status = status.split(' ').nth(1).unwrap_or_default();
    Ok(format!("{status} {}", String::from_utf8_lossy(&body)))
}

fn say(address: &str, text: &str) -> std::io::Result<String> {
    let mut stream = connected(address)?;
    writeln!(stream, "{text}")?;
    let mut answer = String::new();
    match BufReader::new(stream).read_line(&mut answer)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        _ => Ok(answer.trim().to_owned()),
    }
}

/// Over TLS to `name`, which the server has to prove. An address as the name is in no `ClientHello`.
fn say_tls(name: &str, address: &str, certificate: &str, text: &str) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut session = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = connected(address)?;
    let mut stream = Stream::new(&mut session, &mut stream);
    writeln!(stream, "{text}")?;
    let mut answer = String::new();
    match BufReader::new(stream).read_line(&mut answer)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        _ => Ok(answer.trim().to_owned()),
    }
}

/// Says `text` again for each line that it is told, and prints what became of it.
fn talk(address: &str, text: &str) {
    let mut stream = connected(address).unwrap();
    for _ in std::io::stdin().lines() {
        let said = writeln!(stream, "{text}").and_then(|()| {
            let mut answer = String::new();
            BufReader::new(&stream).read_line(&mut answer)?;
            Ok(answer.trim().to_owned())
        });
        println!("{}", told(said));
    }
}

fn say_udp(address: &str, text: &str) -> std::io::Result<String> {
    let address: SocketAddr = address.parse().unwrap();
    let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(text.as_bytes(), address)?;
    let mut bytes = [0; 1500];
    let length = socket.recv(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

/// As the payload of an IP packet.
fn say_raw(protocol: i32, address: &str, text: &str) -> std::io::Result<String> {
    let address: SocketAddr = address.parse().unwrap();
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(protocol)))?;
    socket.send_to(text.as_bytes(), &address.into())?;
    Ok("sent".to_owned())
}

fn connected(address: &str) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address.parse().unwrap(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// In a word, whatever the system's own word is.
fn told(result: std::io::Result<String>) -> String {
    match result {
        Ok(answer) => answer,
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused => "refused".to_owned(),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => {
                "closed".to_owned()
            }
            ErrorKind::TimedOut | ErrorKind::WouldBlock => "silence".to_owned(),
            ErrorKind::PermissionDenied => "not permitted".to_owned(),
            _ => error.to_string(),
        },
    }
}

const PATIENCE: Duration = Duration::from_secs(2);

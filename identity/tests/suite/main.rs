//! The identity crate as its users see it: certificates made for the purpose, judged through the public API.

#[cfg(test)]
mod arbitrary_bytes;
#[cfg(test)]
mod authority;
#[cfg(test)]
mod bundles;
#[cfg(test)]
mod handshakes;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod proven;
#[cfg(test)]
mod rules;

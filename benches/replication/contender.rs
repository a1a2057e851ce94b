//! Who is compared.

/// A way to replicate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contender {
    /// CREATE SUBSCRIPTION with the server's default settings.
    Native,
    /// With the fastest ones: binary values, and large transactions streamed (in parallel from 16 on).
    Tuned,
    /// This.
    Pgconcord,
    /// A reader that throws everything away: what the source alone takes.
    Decode,
}

impl Contender {
    /// All of them.
    pub const ALL: [Contender; 4] = [Contender::Native, Contender::Tuned, Contender::Pgconcord, Contender::Decode];

    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Contender::Native => "native",
            Contender::Tuned => "tuned",
            Contender::Pgconcord => "pgconcord",
            Contender::Decode => "decode",
        }
    }

    /// The subscription's options.
    pub fn options(self, major: u32) -> &'static str {
        match (self, major) {
            (Contender::Tuned, 16..) => ", binary = true, streaming = parallel",
            (Contender::Tuned, _) => ", binary = true, streaming = on",
            _ => "",
        }
    }
}

//! Every code that Sidegate shows a person: in a log line, a metric, an API answer, the CLI or the docs.
//! One enum, one table; `docs/reference/error-codes.md` and `sidegate explain-code` are printed from it.
//!
//! A code is a promise: once released it keeps its meaning and is never used again for another.
#![forbid(unsafe_code)]

use std::{error, fmt, str::FromStr};

/// What a code is about; the first two digits of its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// `SG01xx`: traffic that left or nearly left the mesh's protection.
    Exposure,
    /// `SG02xx`: a verdict of a policy, or a policy that does not load.
    Policy,
    /// `SG03xx`: certificates, handshakes, issuance.
    Identity,
    /// `SG04xx`: configuration of a Sidegate process.
    Configuration,
    /// `SG05xx`: injection of sidecars into workloads.
    Injection,
    /// `SG06xx`: connections, requests, limits.
    Connectivity,
}

impl Group {
    /// Every group, in the order of its numbers.
    pub const ALL: [Self; 6] = [
        Self::Exposure,
        Self::Policy,
        Self::Identity,
        Self::Configuration,
        Self::Injection,
        Self::Connectivity,
    ];

    /// The group's name in a heading.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Exposure => "Exposure",
            Self::Policy => "Policy",
            Self::Identity => "Identity",
            Self::Configuration => "Configuration",
            Self::Injection => "Injection",
            Self::Connectivity => "Connectivity",
        }
    }

    /// The digits that the group's codes begin with, as in `SG02`.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Exposure => "SG01",
            Self::Policy => "SG02",
            Self::Identity => "SG03",
            Self::Configuration => "SG04",
            Self::Injection => "SG05",
            Self::Connectivity => "SG06",
        }
    }
}

macro_rules! codes {
    ($($variant:ident = $id:literal, $group:ident, $title:literal, $why:literal, $next:literal;)+) => {
        /// A stable code, shown as `SG0202`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Code {
            $(#[doc = concat!($id, ": ", $title)] $variant,)+
        }

        impl Code {
            /// Every code, in the order of its numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The stable id, as in `SG0202`.
            pub const fn id(self) -> &'static str {
                match self { $(Self::$variant => $id,)+ }
            }

            /// The group that the id's first digits name.
            pub const fn group(self) -> Group {
                match self { $(Self::$variant => Group::$group,)+ }
            }

            /// What happened, in one line.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)+ }
            }

            /// Why it happens.
            pub const fn why(self) -> &'static str {
                match self { $(Self::$variant => $why,)+ }
            }

            /// What to do next.
            pub const fn next_step(self) -> &'static str {
                match self { $(Self::$variant => $next,)+ }
            }
        }
    };
}

codes! {
    PlaintextRefused = "SG0101", Exposure,
        "plaintext on a port that takes only mutual TLS",
        "The first bytes of an inbound connection were not a TLS ClientHello, and no PlaintextException is for its address and port. The sidecar closes such a connection before a byte reaches the application.",
        "Call the service through a sidecar, or with a client that presents an SVID of the mesh. For who cannot, write a PlaintextException.";
    CaptureDiffers = "SG0102", Exposure,
        "the kernel's capture rules are not the configured ones",
        "Something changed or removed them, or they were never applied. Traffic may pass beside the sidecar; `verify` names each rule that differs.",
        "Run `sidegate-proxy capture apply --config FILE`, then find out what changed the rules.";
    NotCaptured = "SG0103", Exposure,
        "connection refused: it was not captured, or leads back to the sidecar",
        "A listener for captured connections takes only what the kernel redirected to it, and nothing that was sent to a port of the sidecar itself: that would be a way around the rules, or a loop.",
        "Connect to the service's own address and port. If that is what the client did, run `sidegate-proxy capture verify --config FILE`.";
    UnknownDestination = "SG0104", Exposure,
        "connection refused: unknown destination",
        "The workload called an address that belongs to no service it may reach, and no EgressPolicy is for the workload. Nothing leaves the mesh unless it is named.",
        "The log line names the address. Add the service, or let the address out with an EgressPolicy.";
    UndeclaredPort = "SG0105", Exposure,
        "connection refused: captured for a port that is not declared",
        "A captured connection goes only to a port that the listener declares, so that a port which the application keeps for itself stays its own.",
        "Add the port to the listener's `ports`.";
    ManifestUnusable = "SG0140", Exposure,
        "a manifest cannot be judged",
        "It is not YAML, has another shape than Kubernetes or Compose give it, or is neither. A check that left it out would answer for less than was asked.",
        "The message names the place. Of a chart or a template, check what it renders.";
    SecretInManifest = "SG0141", Exposure,
        "a secret stands in a manifest in plain text",
        "Whoever may read the file, the object, or the environment of the process has the secret, and it stays in the history of the repository.",
        "Refer to it: `valueFrom.secretKeyRef` or a mounted secret in Kubernetes, `secrets` or `${NAME}` in Compose. Then change the secret.";
    HostNamespace = "SG0142", Exposure,
        "a workload shares a namespace of its host",
        "In the host's network there is no sidecar to pass through, and nothing is captured; in the host's process or IPC namespace other workloads' keys are within reach.",
        "Remove the field, and name the ports that the workload needs.";
    PrivilegedContainer = "SG0143", Exposure,
        "a container is privileged",
        "It can change capture rules, read other processes and leave its container: no policy holds for it.",
        "Remove `privileged` and add the one capability that is needed.";
    BypassCapability = "SG0144", Exposure,
        "a container has a capability that leads past its sidecar",
        "NET_ADMIN and BPF change capture rules, NET_RAW sends what they do not see, SYS_PTRACE reads the memory of the sidecar, SYS_ADMIN and SYS_MODULE do whatever they like.",
        "Remove it, and drop ALL. Only the sidecar's own start needs NET_ADMIN.";
    PortBesideSidecar = "SG0145", Exposure,
        "a port is published at the host",
        "In Compose it leads to the application itself, past its sidecar and every policy. In Kubernetes it is captured like all else, but stands open to whoever reaches the node.",
        "Publish a port of the sidecar or of an ingress instead, and reach the workload through the mesh.";
    SharedAccount = "SG0146", Exposure,
        "a workload runs as the default service account",
        "The account is the identity. Every workload of the namespace that names none has this one, so that no policy can tell them apart.",
        "Give each workload a ServiceAccount of its own, and name it in `serviceAccountName`.";
    AutomountedToken = "SG0147", Exposure,
        "a token of the Kubernetes API is mounted into the pod",
        "Whoever takes over the application holds a credential of the cluster. Sidecars do not need it: theirs is projected, with an audience of its own.",
        "Set `automountServiceAccountToken: false` in the pod or in its ServiceAccount, unless the application calls the Kubernetes API.";
    SidecarsUser = "SG0148", Exposure,
        "an application runs as the sidecar's user",
        "Capture leaves out what this user sends, so that the sidecar's own connections are not captured again. The application's would leave in plaintext.",
        "Run it as another user; 15100 is the sidecar's.";
    NotFenced = "SG0149", Exposure,
        "an application of a Compose file does not stand alone with its sidecar",
        "Whoever shares a network with an application reaches it past its sidecar, and it reaches them. Only an internal network with nobody else on it is a fence; a transparent application is alone in its sidecar's, behind that one's rules.",
        "sidegate compose init, then sidegate compose inject; take networks that were added by hand out of the application.";
    SidecarJoinsApplication = "SG0150", Exposure,
        "a sidecar stands in the network of its application",
        "When the application restarts it gets a new network and the sidecar stays in the old one: the application is then reachable by everybody, and nothing tells.",
        "Give the application a fence of its own: sidegate compose inject.";
    ReadableSecret = "SG0151", Exposure,
        "a file with a secret can be read by others on its host",
        "A join token is the identity of its service until it has ended.",
        "chmod 600 FILE, and make a new token if somebody else may have read it.";
    NoPolicy = "SG0201", Policy,
        "denied: no policy selects this workload",
        "Without a policy nothing is allowed: default deny holds from the first minute.",
        "Write an AuthorizationPolicy with action Allow whose selector matches the workload, then `sidegate get policies`.";
    NoRuleMatched = "SG0202", Policy,
        "denied: no Allow rule matches",
        "Policies select the workload, but none of their Allow rules matches this caller and operation.",
        "The log line's `nearest` field names the closest rule and what kept it from matching; extend that rule if the call is wanted.";
    DeniedByRule = "SG0203", Policy,
        "denied: a Deny rule matches",
        "Deny rules are judged first and nothing overrides them.",
        "The log line names policy and rule. Narrow the Deny rule if the call is wanted; an Allow cannot override it.";
    RequirementNotMet = "SG0204", Policy,
        "denied: a Require policy is not met",
        "A Require policy is a guardrail: a request passes only if one of its rules matches.",
        "The log line names the policy. Meet one of its rules, or have its owner widen it.";
    Undecidable = "SG0205", Policy,
        "denied: a Deny or Require rule could not be evaluated",
        "A rule needs an attribute that this connection does not have, such as a method or path on an opaque port, or its `when` asks for a header that is missing or has more than one value. Doubt denies.",
        "The log line's `nearest` field says what is missing. Declare the port's protocol as http or write the rule without HTTP conditions; ask `\"name\" in request.headers` before a header that may be missing.";
    NoVerifiedPeer = "SG0206", Policy,
        "denied: the peer has no verified identity",
        "Authorization needs a peer identity verified by mutual TLS; there was none, and no PlaintextException is for what was asked.",
        "Call through a sidecar, or with a client that presents an SVID of the mesh. The log line's `nearest` field names the closest exception and what kept it from matching.";
    CutByPolicy = "SG0207", Policy,
        "connection cut: a new policy set no longer permits it",
        "Open connections are judged again whenever policies change; this one would not be admitted now.",
        "If the cut is a surprise, compare the policy change with `sidegate get policies`.";
    OpaqueOnHttpPort = "SG0208", Policy,
        "denied: opaque bytes on a port whose policies read HTTP",
        "The port's protocol is auto, and a rule in force has conditions on method, path or host there. The caller chooses what it sends, and must not choose to be judged by less.",
        "Declare the port's `protocol: tcp` if it does not speak HTTP, or remove the HTTP conditions of the rule that the log names; if it does speak HTTP, declare `http` or `http2` and look at the client.";
    PolicySyntax = "SG0210", Policy,
        "policy refused: not valid YAML",
        "The file cannot be parsed. The whole set is refused and the last good set stays in force.",
        "Fix the line the message names; the file is read again when it changes.";
    PolicyUnknownField = "SG0211", Policy,
        "policy refused: unknown field",
        "A field that is not understood could be a condition that would be ignored, so it refuses the whole set.",
        "Correct the field's name; the message lists the fields that exist there.";
    PolicyBadValue = "SG0212", Policy,
        "policy refused: a value cannot be understood",
        "A CIDR, SPIFFE ID, port, path pattern, host, method or condition is malformed. A value that cannot be parsed never matches more than its author meant, so it refuses the whole set.",
        "Correct the value that the message shows.";
    PolicyUnknownKind = "SG0213", Policy,
        "policy refused: unknown action, mode, kind or apiVersion",
        "The word is not one that this version knows. Guessing its meaning could widen access.",
        "Use one of the words that the message lists.";
    PolicyDuplicate = "SG0214", Policy,
        "policy refused: two policies or rules share a name",
        "Names identify policies and rules in logs, metrics and explanations, so they must be unique within their namespace or policy.",
        "Rename one of the two places that the message names.";
    PolicyIncomplete = "SG0215", Policy,
        "policy refused: something is missing",
        "A required field is absent or a list is empty. An empty list could be read as 'none' or 'any'; neither is guessed.",
        "Add the field, or leave the list out if any value is meant.";
    PolicyTooLarge = "SG0216", Policy,
        "policy refused: over a limit",
        "The set is larger than a named limit: file size, policies, rules, list entries or nesting.",
        "Split or shorten it; the message names the limit and the size seen.";
    PolicyUnreadable = "SG0217", Policy,
        "policy refused: a file or folder cannot be read",
        "The set would be incomplete without it, so the last good set stays in force.",
        "Check that it exists and that the process may read it.";
    PolicyStale = "SG0218", Policy,
        "the last good policy set is in force, not the newest",
        "The newest policies were refused; the reason is logged with its own code.",
        "Fix what the newest error names: `sidegate status` shows it.";
    EgressDenied = "SG0220", Policy,
        "denied: no rule lets this leave the mesh",
        "An EgressPolicy selects the workload, but none of its rules is for this destination and port, or the name leads to an address that the rule does not mean. Nothing leaves the mesh that no rule names.",
        "The log line's `nearest` field names the closest rule and what kept it from matching. An address that is not of the public Internet has to stand in the rule's `ipBlocks`, in a block that holds nothing else.";
    EdgesUnusable = "SG0230", Policy,
        "recorded calls cannot be used",
        "The file of edges or access log lines cannot be read, or a line of it is not understood. A command that left the line out would answer from less than was recorded, so it answers nothing.",
        "The message names the line; `sidegate get edges -o jsonl` prints what is understood.";
    ImportRefused = "SG0231", Policy,
        "a policy of another mesh has no exact translation",
        "It says something that this language does not, or the file is not understood. Nothing is translated to what is nearly the same. What grants is left out; in place of what denies stands a Deny of everything, so that nothing opens.",
        "The report names the construct, its line and the reason. Write what is meant by hand, or say it otherwise there and import again.";
    TokenRefused = "SG0240", Policy,
        "denied: the request's token is not good",
        "A request that brings a token is let in only if that passes every check: its signature by a key of its issuer, its dates, its audience, one reading. What policies would say without it does not count. The downstream reads 401 and nothing more.",
        "The log line's `nearest` field says which check it was. Have the caller send one current token for this audience, in the field that `jwt.header` names.";
    TokenKeysUnknown = "SG0241", Policy,
        "denied: the keys of the token's issuer cannot be had",
        "Without the issuer's keys no token of it can be checked, and none is taken unchecked. The last good keys were used for as long as `maxStale` says. The downstream reads 503.",
        "The sidecar's log says why under this code: the file or URL, the authority that vouches for the server, its address, or the key set itself.";
    ExternalDenied = "SG0250", Policy,
        "denied: whoever decides beside policy says no",
        "Policy permits it, and the server of `externalAuthorization` does not. Its word can only narrow.",
        "The log line's `nearest` field has the status and the words of the answer. What they mean is said by that server's own policy and log.";
    ExternalUnavailable = "SG0251", Policy,
        "denied: whoever decides beside policy does not answer",
        "The server of `externalAuthorization` cannot be reached, does not prove who it is, is late or broken, or has been so too often of late and is not asked for now. Without its OK nothing is let in. The downstream reads 503.",
        "The log line's `nearest` field says which it was; `sidegate_external_decisions_total` counts by outcome. Look at the server, its address and what vouches for it.";
    ExternalUnusable = "SG0252", Policy,
        "denied: a question to whoever decides beside policy, or its answer, is not usable",
        "The answer has no status, contradicts itself, or changes what the configuration does not let it change; or the request has a header field that the protocol cannot show. Half an answer is followed by nobody. The downstream reads 503.",
        "The log line's `nearest` field says what it was. Have the server change only fields in `setHeaders` and `removeHeaders`, or add to those lists.";
    NoClientCertificate = "SG0301", Identity,
        "handshake refused: the peer sent no certificate",
        "Every inbound connection needs a client certificate: an X.509-SVID of the mesh.",
        "Call the service through a sidecar, or with a client that presents an SVID.";
    UntrustedCertificate = "SG0302", Identity,
        "handshake refused: the peer's certificate does not lead to a trusted authority of its trust domain",
        "Each trust domain is verified against its own bundle alone. A foreign CA, or an authority of another trust domain, vouches for nobody here.",
        "Check which CA issued the peer's certificate and whether its trust domain's bundle is distributed.";
    CertificateNotValidNow = "SG0303", Identity,
        "refused: a certificate has expired or is not yet valid",
        "Its validity period does not contain the present moment: a renewal that failed, or a clock that is wrong. It is the peer's in a handshake, and the own one in the log of what reads or is issued it.",
        "Check the clock on both hosts, then the renewals of whose certificate it is: `sidegate get proxies`, or `sidegate proxy --config FILE --check` for certificates from files.";
    NotAnSvid = "SG0304", Identity,
        "handshake refused: the peer's certificate is not a well-formed X.509-SVID",
        "It breaks a rule of the SPIFFE X.509-SVID standard: exactly one SPIFFE ID as URI SAN, not a CA, key usage digitalSignature, both extended key usages, a bounded lifetime.",
        "The log names the rule. Have the peer's certificate issued by the mesh's CA or a conforming SPIFFE provider.";
    UnexpectedServerIdentity = "SG0305", Identity,
        "connection refused: the server is not the service that was called",
        "The endpoint presented a valid identity, but not one that this service runs under. Traffic for one service never goes to another.",
        "Check the service's endpoints and its expected identities; an endpoint may have been reused by another workload.";
    IssuanceRefused = "SG0306", Identity,
        "the control plane refused to issue a certificate",
        "The caller could not be attested: its join token is unknown, or its current certificate does not entitle it.",
        "Check the join token file of the sidecar and the `services` in mesh.yaml.";
    RenewalFailed = "SG0307", Identity,
        "a certificate renewal failed; the current certificate stays in use",
        "The control plane could not be reached or refused, or nobody has put a new certificate into the files. Renewal begins at half of the lifetime; the log warns again when a quarter is left.",
        "Check the control plane: `sidegate status`; for certificates from files, whatever writes them.";
    NoCredentials = "SG0308", Identity,
        "the sidecar has no valid certificate of its own",
        "It was never issued one, or it expired before a renewal succeeded. Nothing is sent or accepted without one.",
        "Check the control plane and the join token: `sidegate check`; for certificates from files: `sidegate proxy --config FILE --check`.";
    HandshakeFailed = "SG0309", Identity,
        "a TLS handshake failed",
        "The peer does not speak TLS 1.3 with a common key exchange, closed early, or sent something that is not TLS.",
        "Check that the peer is a sidecar or a TLS 1.3 client.";
    HandshakeTimeout = "SG0310", Identity,
        "a TLS handshake took too long",
        "The handshake did not finish within its limit. Slow or silent peers may not hold a slot.",
        "Check the network between the two; the limit is `limits.handshakeTimeout`.";
    PeerCertificateEnded = "SG0311", Identity,
        "connection closed: the peer's certificate is no longer valid",
        "A connection never outlives its peer's certificate, and closes when the peer's authority is removed from its bundle.",
        "The peer reconnects with its renewed certificate by itself; if it does not, check its renewals.";
    UnsafeKeyFile = "SG0312", Identity,
        "a private key's file may be read or written by others",
        "Key files must be 0600 and owned by the process's user, in a folder that only its user may write.",
        "chmod 600 the file and chmod 700 its folder, then consider the key known to others.";
    BadCredentials = "SG0313", Identity,
        "a certificate, key or trust bundle cannot be used",
        "It cannot be parsed, key and certificate do not belong together, or the certificate does not pass the mesh's own verification.",
        "The message names the file and the reason.";
    IdentityQuarantined = "SG0314", Identity,
        "the identity is in quarantine",
        "An operator put it there with `sidegate quarantine add`, or lifted it for certificates that are issued anew.",
        "`sidegate quarantine list` says since when and why; `sidegate quarantine lift` ends it.";
    WorkloadApiUnavailable = "SG0330", Identity,
        "the SPIFFE Workload API cannot be used",
        "Nobody answers on its socket, or the answer is not what the standard says. What was received before stays in use until its certificate ends.",
        "Check the provider and `identity.workloadApi.socket`; the message says what happened.";
    NoIdentityGranted = "SG0331", Identity,
        "the SPIFFE Workload API grants this workload no identity",
        "The provider has no entry for this process, took the entry back, or gives other identities than the configured one. What was received before is used no longer.",
        "Compare `trustDomain` and `workload` with the provider's registration of this process.";
    WorkloadApiUnserved = "SG0332", Identity,
        "the socket of the SPIFFE Workload API cannot be opened",
        "Others could write to its folder and put a socket of their own there, another process answers on it, or something else has its name. An application that asks the wrong socket gets somebody else's identity.",
        "The message says which. Name a folder that does not exist yet below one of the sidecar's user, or `chmod 755` it.";
    WorkloadApiCallerRefused = "SG0333", Identity,
        "a caller of the SPIFFE Workload API was refused: its user is not configured",
        "Whoever is answered has the workload's private key, so processes of the users in `workloadApi.users` are, and without that list those of the sidecar's own user.",
        "If the process is the application, add its user ID to `workloadApi.users`; in a container it is the one that the sidecar sees.";
    RegistryBroken = "SG0340", Identity,
        "the registry of issued certificates is damaged or was changed; nothing is issued",
        "A page, a record, the chain of their hashes or a signed checkpoint does not hold. Issuing on top of it would hide what happened, so the control plane does not start; what is on disk was left as it is.",
        "Keep a copy of the state folder, then `sidegate certs verify --mesh mesh.yaml`; restore `registry.db` and `registry.key` from a backup, or investigate before you move them away and start with an empty one.";
    RegistryUnwritable = "SG0341", Identity,
        "nothing was issued, because it cannot be recorded",
        "Each certificate is recorded on disk before it is signed. The disk is full or failing, or another program has written to the registry.",
        "`df -h` and the kernel's log on the control plane's host; it goes on by itself once the disk takes writes. Sidecars keep their certificates and try again.";
    RegistryUnreachable = "SG0342", Identity,
        "the database of the registry cannot be used; nothing is issued",
        "It cannot be reached, does not vouch for itself, refuses the user, or does not answer in time. Sidecars keep their certificates and their configuration, and nobody is issued a new one until it answers.",
        "The message says what the server or the network said; `registry` in `mesh.yaml` says where it is looked for. It is tried again by itself.";
    RegistryTakenOver = "SG0343", Identity,
        "another control plane has taken the registry over; this one issues nothing",
        "It did not write to the database for longer than `registry.postgresql.lease`, and another was waiting. Its streams are closed, so that sidecars turn to the other, and it waits for its own turn.",
        "Nothing, if it was stopped or cut off from the database for a while. If it happens often: a longer `lease`, or a database that answers faster.";
    StateFolderBehind = "SG0344", Identity,
        "the state folder is not the one that the registry was last written with",
        "Another control plane has issued since, with a state folder that is not this one. What it did to the roots and to join tokens is not here, so a replaced root could sign again, and a token for one use could be used twice.",
        "Let all control planes of the mesh use one state folder, or copy it over from the control plane that issued last.";
    JoinTokenNewSource = "SG0350", Identity,
        "a join token was used from an address that it was not used from before",
        "The certificate was issued. A workload that moved or a new replica does that, and so does somebody who has the token and should not.",
        "`sidegate token list` shows the addresses. If one is not yours: `sidegate token revoke` it, and `sidegate quarantine add` the identity.";
    JoinTokenEnded = "SG0351", Identity,
        "a join token was refused: it has expired, is used up or was revoked",
        "A token ends by its time, by the number of its uses or by `sidegate token revoke`. One that is used up and comes again may have been copied.",
        "Make the workload a new one: `sidegate token create`. If it is nobody of yours, the registry has the address: `sidegate certs list --refused`.";
    RotationRefused = "SG0360", Identity,
        "the rotation of the root cannot do what was asked",
        "Another rotation is under way, it has gone too far to be aborted, or the root to go back to is tainted. Nothing was changed.",
        "`sidegate certs rotate status` shows how far it is and who is in the way.";
    RotationStuck = "SG0361", Identity,
        "the rotation of the root does not go on",
        "Each step is written to the state folder before it has an effect, and that failed. The roots that are in force stay, and the step is tried again every second.",
        "`df -h` and the permissions of the state folder on the control plane's host; the message says what failed.";
    IntermediateEnding = "SG0362", Identity,
        "the intermediate that signs certificates is about to end, or has ended",
        "The root's key is elsewhere, so nobody here can renew it. No certificate lives longer than the intermediate: they become shorter and shorter, and then none is issued.",
        "Have another one signed, in time: `sidegate certs intermediate request`, then `sidegate certs intermediate install`.";
    RotationBlocked = "SG0363", Identity,
        "the rotation of the root waits for longer than it should",
        "Each phase waits until every sidecar has acknowledged the trust bundle, or until no certificate of the old root is alive. Somebody does neither. Nothing fails meanwhile.",
        "`sidegate certs rotate status` names who is in the way. Look at that sidecar's log and connection; one that is gone for good is waited for until its certificate ends.";
    ForeignBundleStale = "SG0364", Identity,
        "the trust bundle of another trust domain could not be brought up to date",
        "Its bundle endpoint cannot be reached, does not prove to be the one that is configured, or gave a document that is refused: an older one, a redirect, one that is too large, or authorities of another trust domain. The last good bundle stays in force.",
        "The message names the reason. Ask the partner; authorities that are long out of use there stay trusted here until a newer bundle comes, or until `federation` in mesh.yaml names it no longer.";
    LocalUserUnknown = "SG0365", Identity,
        "a process of this host was refused: its user is of no service",
        "At the control plane's socket the kernel says whose process is calling, and `localUsers` in mesh.yaml lists no such user for any service. Root is entitled to nothing unless it is listed.",
        "Compare the user and group that the message and the registry name with `localUsers` of the service (`sidegate certs list --refused`); a process in another user namespace needs a join token.";
    LocalSocketUnusable = "SG0366", Identity,
        "the control plane's socket for sidecars of its host cannot be opened",
        "Others could write to its folder and put a socket of their own there, another control plane answers on it, or something else has its name.",
        "The message says which. Name a folder that does not exist yet below one of the control plane's user, or `chmod 755` it.";
    ControlPlaneStandsBy = "SG0367", Identity,
        "this control plane stands by; another one has the registry",
        "Several control planes share a registry in PostgreSQL and one of them issues. This one waits for its turn, and knows of the mesh only who it waits for.",
        "Ask the one that the message names: `sidegate status --api URL` on its host. `sidegate_control_plane_active` is 1 there.";
    ConfigUnreadable = "SG0401", Configuration,
        "the configuration cannot be read",
        "The file does not exist or may not be read.",
        "Check the path that the message shows.";
    ConfigSyntax = "SG0402", Configuration,
        "the configuration is not valid YAML, or has an unknown or missing field",
        "Unknown fields are errors: a misspelt limit that is ignored protects nobody.",
        "Fix the line the message names; `docs/reference/config.md` lists every field.";
    ConfigBadValue = "SG0403", Configuration,
        "a configuration value cannot be used",
        "The value is malformed, out of range, or contradicts another. All such errors are reported together.",
        "Correct the values that the message lists.";
    ConfigStale = "SG0404", Configuration,
        "the last good configuration is in force, not the newest",
        "The newest configuration was refused; the reason is logged with its own code.",
        "Fix what the newest error names; the file is read again when it changes.";
    SnapshotRefused = "SG0405", Configuration,
        "a sidecar refused an update from the control plane",
        "One element of the update cannot be understood, so all of it was refused and the last good snapshot stays. The path of the element is named.",
        "Usually the control plane is newer than the sidecar: upgrade the sidecar.";
    CacheUnusable = "SG0406", Configuration,
        "the cache on disk cannot be used",
        "It is damaged, belongs to another identity, or its permissions are too wide. The sidecar starts without it.",
        "Delete the cache folder; the sidecar fills it again from the control plane.";
    ListenFailed = "SG0407", Configuration,
        "a listener cannot be opened",
        "The address is in use, does not exist here, or needs a privilege.",
        "Choose another address in the configuration, or stop the program that holds it.";
    StateUnusable = "SG0408", Configuration,
        "the control plane's state cannot be used",
        "A file of its state folder is damaged or its permissions are too wide. It does not guess, and makes no new root over an old one.",
        "Restore the state folder from its backup, or fix its permissions.";
    CaptureFailed = "SG0409", Configuration,
        "capture rules cannot be read or changed",
        "The process lacks CAP_NET_ADMIN, neither nft nor iptables is installed, or the kernel refused. The rules that were in force still are.",
        "Run as root in the workload's network namespace, with nftables installed; the message says what the tool answered.";
    ComposeSyntax = "SG0501", Injection,
        "the Compose file cannot be read",
        "It is not YAML, has no services, or has something twice. Tags such as `!reset` belong into overrides.",
        "Correct the line that the message names; `docker compose config` reads the file as Docker does.";
    ComposeIndirect = "SG0502", Injection,
        "a service's description comes from another place",
        "With `include`, `extends`, or an `env_file` that only a variable names, the file does not say by itself which networks and ports a service has and whom it calls, so no fence around it could be sure.",
        "Write one plain file first: `docker compose config > flat.yaml`, then `sidegate compose inject --file flat.yaml`.";
    ComposeNetworkMode = "SG0503", Injection,
        "a service shares a network that is not its own",
        "With `network_mode` it is in the network of the host or of another container, so a fence would not hold it. A transparent service is in its sidecar's, whose hosts and resolvers it has.",
        "Take out what the message names and publish the ports it needs, or leave the service out of the mesh: label `sidegate.dev/inject: disabled`.";
    ComposeFence = "SG0504", Injection,
        "a service does not fit into a fence",
        "A fence is a network of eight addresses that Sidegate chooses: there is no room for an address of your own, nor for more than three replicas. Beside a transparent sidecar there is room for one.",
        "Take the address out and call the service by its name; for more replicas, write further services.";
    ComposePort = "SG0505", Injection,
        "a port cannot be carried by a sidecar",
        "Sidecars carry TCP, on ports whose numbers are known, up to eight of one service.",
        "Write the container's port as a number, or leave the service out of the mesh: label `sidegate.dev/inject: disabled`.";
    ComposeAmbiguous = "SG0506", Injection,
        "two upstreams of a service cannot be told apart",
        "On one port, HTTP goes by its host and TLS by its server name. Opaque bytes name nobody, so only one such upstream can have the port, and no two may share a name.",
        "Let one of them listen on another port, or say what is called: label `sidegate.dev/upstreams: \"db:5432\"`.";
    ComposeBadLabel = "SG0507", Injection,
        "a label or a name cannot be used",
        "The value of a label of Sidegate's is malformed, or a name would mean two things in the mesh.",
        "Labels: `sidegate.dev/inject: disabled`, `sidegate.dev/ports: \"8080/http, 9090\"`, `sidegate.dev/upstreams: \"orders, db:5432\"`, `sidegate.dev/egress: \"api.example.com:443\"`, `sidegate.dev/mode: transparent`.";
    ComposeStale = "SG0508", Injection,
        "what was generated does not fit the Compose file",
        "A service is newer than its token, its fence or the generated file, its token belongs to another user than its sidecar runs as, or a generated file was changed by hand.",
        "sidegate compose init, then sidegate compose inject.";
    UpstreamUnreachable = "SG0601", Connectivity,
        "the upstream cannot be reached",
        "The connection was refused, reset or timed out before a request was sent.",
        "Check that the endpoint, or the application behind this sidecar, is running and listening.";
    UpstreamTimeout = "SG0602", Connectivity,
        "the upstream did not answer in time",
        "No response began within the limit.",
        "Check the application; the limit is `limits.responseTimeout`.";
    NoEndpoints = "SG0603", Connectivity,
        "the service has no endpoints",
        "No sidecar of this service is registered and none is configured.",
        "Start the service's sidecar, then `sidegate get proxies`.";
    UnknownService = "SG0604", Connectivity,
        "the service is unknown",
        "The control plane's mesh.yaml has no service of this name.",
        "Check the listener's `service` against the `services` of mesh.yaml.";
    ControlPlaneUnreachable = "SG0605", Connectivity,
        "the control plane cannot be reached",
        "Traffic flows on under the last good snapshot; policy changes and renewals wait.",
        "Check that it runs and that `controlPlane.address` is right: `sidegate status`.";
    TooManyConnections = "SG0606", Connectivity,
        "connection refused: too many connections",
        "A connection limit is reached, in all or for this source.",
        "Find the source in `sidegate_connections_active`; the limits are `limits.connections` and `limits.connectionsPerSource`.";
    TooManyRequests = "SG0607", Connectivity,
        "request refused: too many requests in flight",
        "A request limit is reached; the sidecar sheds load rather than queue without end.",
        "Slow the callers down, or raise `limits.requests`.";
    BadPath = "SG0610", Connectivity,
        "request refused: ambiguous path",
        "Two programs could read this path in two ways: dot segments, empty segments, backslashes, encoded slashes, path parameters or bytes that do not belong in a path. What cannot be judged with certainty is refused.",
        "Send the path in its plain form, or set the listener's `paths: compatible`.";
    BadAuthority = "SG0611", Connectivity,
        "request refused: missing, doubled or malformed host",
        "Host and :authority must name one and the same authority.",
        "Send exactly one valid Host.";
    BadFraming = "SG0612", Connectivity,
        "request refused: ambiguous framing",
        "Content-Length and Transfer-Encoding disagree or are repeated: the mark of request smuggling.",
        "Send exactly one of them; if the client is trusted, look for a proxy in between that rewrites messages.";
    HeadersTooLarge = "SG0613", Connectivity,
        "request refused: headers or target too large",
        "The head of the request is over a limit.",
        "Shorten it; the limits are `limits.headerBytes`, `limits.headers` and `limits.pathBytes`.";
    BadHeader = "SG0614", Connectivity,
        "request refused: a header that attacks",
        "A Connection header named a security header, so that this proxy would have removed it.",
        "Look at the client: no ordinary one does this.";
    ProtocolMismatch = "SG0615", Connectivity,
        "connection refused: not the protocol that the port carries",
        "The port is declared as one protocol and the connection carried another. A port with HTTP policies is never downgraded to opaque bytes.",
        "Correct the listener's `protocol`, or the client.";
    Draining = "SG0616", Connectivity,
        "refused: the sidecar is shutting down",
        "It received SIGTERM and finishes what is in flight.",
        "Retry; another endpoint or the restarted sidecar answers.";
    UpstreamFailed = "SG0617", Connectivity,
        "the upstream failed while answering",
        "The connection to the upstream broke, or it sent something that is not the protocol, after the request was sent.",
        "Check the application's log at the time of the request id.";
    UnsupportedRequest = "SG0618", Connectivity,
        "request refused: CONNECT where there is no proxy, upgrades other than WebSocket, and look-alike methods",
        "A tunnel would carry bytes that no policy judges, and a method that differs from a known one only in its case is read in two ways.",
        "Declare the port as tcp if the service speaks such a protocol; for tunnels make the outbound port a `proxy:`.";
    DetectTimeout = "SG0619", Connectivity,
        "connection closed: no first bytes in time",
        "The protocol could not be detected within the limit.",
        "Declare the listener's `protocol`; the limit is `limits.detectTimeout`.";
    DownstreamFailed = "SG0620", Connectivity,
        "the downstream went away",
        "The client closed or reset the connection, or broke the protocol, before its answer was complete.",
        "Look at the client; nothing is wrong on this side.";
    UnknownHost = "SG0621", Connectivity,
        "request refused: no service of the port has this host",
        "An outbound port that leads to several services takes only their hosts. No other name is looked up or forwarded anywhere.",
        "Compare the host in the log with the `hosts` of the services that the port lists; absent, they are `name.namespace` and, in the own namespace, `name`.";
    Nameless = "SG0622", Connectivity,
        "connection refused: its bytes name no service",
        "An outbound port that leads to several services chooses by host, and these bytes name none.",
        "Give the service a port of its own (`service:`), or declare it, and it alone of the port's services, `protocol: tcp`.";
    BadHello = "SG0623", Connectivity,
        "connection refused: the server name of its TLS cannot be read",
        "On an outbound port that leads to several services, the application's own TLS is sent on by the server name of its ClientHello, and this one is broken, over 16 KiB, or names two.",
        "Look at the client: no ordinary one does this. A port of one service (`service:`) does not look into the bytes.";
    NameNotResolved = "SG0624", Connectivity,
        "the name of the application leads nowhere",
        "The `forward` of an inbound port is a name, and looking it up gave an error, no address, or no answer in time. No older answer is used in its place.",
        "Look the name up from the sidecar's own network; write an address where the name is not needed.";
    UnknownExpectation = "SG0625", Connectivity,
        "request refused: an expectation that nobody can meet",
        "The request has an `Expect` field that asks for something other than `100-continue`, which is all that HTTP defines. It was answered 417, and its body was not read.",
        "Correct the client; `detail` has the expectation.";
    BreakerRequests = "SG0640", Connectivity,
        "refused: too many calls to one service in flight",
        "As many calls to the service, or to each of its endpoints, are in flight as its breakers admit. A service that hangs takes no more than its share of this sidecar.",
        "Find out what the service waits for; the bounds are `breakers.requests` and `breakers.endpointRequests` of the service.";
    BreakerPending = "SG0641", Connectivity,
        "refused: too many calls wait for a connection to one service",
        "As many calls wait for a connection as the service's breakers admit; a longer queue would only answer later.",
        "Check the network to the endpoints; the bound is `breakers.pending` of the service.";
    BreakerConnections = "SG0642", Connectivity,
        "refused: too many connections to one service",
        "As many connections to the service, or to the endpoint, are open as its breakers admit, and none of them is free.",
        "Find out what the service waits for; the bounds are `breakers.connections` and `breakers.endpointConnections` of the service.";
    AllEjected = "SG0643", Connectivity,
        "refused: every endpoint of the service is ejected",
        "Each endpoint failed so often that it gets no calls for a while, and `outliers.maxEjectedPercent: 100` allows that for all of them.",
        "Look for `endpoint ejected` in the log and at `sidegate_endpoints`; each is tried again by itself.";
    RetryBudgetSpent = "SG0644", Connectivity,
        "failed, and not tried again: the retry budget is spent",
        "So many calls to the service fail that trying all of them again would only add to its load.",
        "Look at why they fail, in `detail`; the budget is `retries.budgetPercent` and `retries.budgetPerSecond` of the service.";
    ConnectTimeout = "SG0645", Connectivity,
        "no connection to the upstream in time",
        "Dialling it, its handshake included, took longer than allowed. Nothing was sent.",
        "Check that the endpoint runs and that the network lets packets through; the limits are `limits.connectTimeout` and `timeouts.connect` of the service.";
    RateLimited = "SG0646", Connectivity,
        "refused: a rate limit is reached",
        "As many requests have come as the limit admits: inbound those of one caller or of all, outbound those of one rule. The answer is 429, and `Retry-After` says when there is room.",
        "Look at `sidegate_rate_limited_total` for who sends so much; the limit is in `inbound[].rateLimits` or in the rule's `rateLimit`.";
    RateCallers = "SG0647", Connectivity,
        "refused: a rate limit tells no more callers apart",
        "Each of so many callers has sent so lately that its count cannot be forgotten, so this one cannot be counted. It is refused, since an uncounted caller would have no limit.",
        "Raise `limits.rateCallers` above the number of workloads that call this port.";
    HeadTimeout = "SG0650", Connectivity,
        "connection closed: the request head did not end in time",
        "A head began and its end did not come: a broken client, or one that holds connections on purpose.",
        "Look at the client; the limit is `limits.headTimeout`.";
    BodyTooSlow = "SG0651", Connectivity,
        "request refused: its body comes too slowly",
        "The body was waited for, and less of it came than the limit asks for: a broken client, or one that holds requests on purpose. Time in which the upstream takes nothing does not count.",
        "Look at the client; the limits are `limits.bodyRate` and `limits.bodyTimeout`.";
    WriteStalled = "SG0652", Connectivity,
        "connection closed: its downstream reads no answer",
        "Answers wait, and the downstream has taken nothing of them for as long as the limit says.",
        "Look at the client; the limit is `limits.writeTimeout`.";
    IdleTimeout = "SG0653", Connectivity,
        "connection closed: nothing passed for too long",
        "An opaque connection or a WebSocket carried no byte either way.",
        "Let the application send keep-alives, or raise `limits.opaqueIdleTimeout`.";
    TooOld = "SG0654", Connectivity,
        "connection closed: as old as one may get",
        "It was told to take no new requests, and what was in flight had its time.",
        "Let the client end a request and begin another, or raise `limits.connectionAge` or `limits.connectionGrace`.";
    Http2Flood = "SG0655", Connectivity,
        "connection closed: a flood of HTTP/2 frames",
        "The peer sent more frames that are no part of a request than it may, or had more streams reset.",
        "Look at the peer: no ordinary client does this. The limits are `limits.controlFrames` and `limits.streamResets`.";
    StreamRefused = "SG0656", Connectivity,
        "stream refused: too many on one connection",
        "The peer opened more streams than it was told it may.",
        "Look at the client: it does not heed SETTINGS. The limit is `limits.streams`.";
    Overloaded = "SG0657", Connectivity,
        "refused: this sidecar holds more memory than it may",
        "Above `limits.memory` new requests and connections are refused, and what is in flight goes on. It ends when the memory is below nine tenths of that.",
        "Look for who sends so much, in `sidegate_requests_total` and `sidegate_connections_active`; or give the sidecar more memory and raise the limit.";
    AcceptFailed = "SG0658", Connectivity,
        "connections wait: the system has no file descriptors or memory for them",
        "accept(2) failed. The sidecar tries again each 100 ms, and serves what it has meanwhile.",
        "Raise the hard limit of open files (`ulimit -Hn`, `LimitNOFILE=`); the sidecar uses all of it.";
    LinkBroken = "SG0659", Connectivity,
        "link closed: it broke its protocol or its bounds",
        "A sidecar shares one connection among many requests. This one sent a frame that its protocol does not have, more than a window takes, or more frames that are no part of a stream than it may.",
        "Look at the peer: no sidecar does this. The limits are `limits.controlFrames` and `limits.streamResets`.";
    NoRoute = "SG0660", Connectivity,
        "no route of the service matches the request",
        "The service has routes, and none of their matches holds for this request. It is answered 404 and sent nowhere.",
        "Add a rule for it to the service's `routes`; one without `matches` takes what no other does.";
    NoBackend = "SG0661", Connectivity,
        "the route has no backend for the request",
        "The backend that was chosen is not a known service, or no backend of the rule has a weight.",
        "Check the rule's `backendRefs` against the services that this sidecar knows.";
    RouteTimeout = "SG0662", Connectivity,
        "no answer within the time that the route allows",
        "The request took longer than its rule's `timeouts`, with every try and every delay in it.",
        "Look at the application, or give the rule more time.";
    FaultInjected = "SG0663", Connectivity,
        "the request waited or failed on purpose",
        "The rule that matched it has `faults`, which say `forTests`. No policy and no upstream decided this.",
        "Remove `faults` from the rule when the trial is over.";
    ConnectionPanicked = "SG0690", Connectivity,
        "a connection ended by a fault of Sidegate itself",
        "A bug. It ended this connection and no other.",
        "Please report it with the log line before it.";
}

/// The text was not the id of a code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownCode(String);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

impl FromStr for Code {
    type Err = UnknownCode;

    /// Reads `SG0202`, in either case.
    fn from_str(text: &str) -> Result<Self, UnknownCode> {
        Self::ALL
            .iter()
            .copied()
            .find(|code| code.id().eq_ignore_ascii_case(text))
            .ok_or_else(|| UnknownCode(text.to_owned()))
    }
}

impl fmt::Display for UnknownCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a Sidegate code; codes look like SG0202", self.0)
    }
}

impl error::Error for UnknownCode {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_ascending_and_belong_to_their_group() {
        for pair in Code::ALL.windows(2) {
            assert!(pair[0].id() < pair[1].id(), "{} before {}", pair[0], pair[1]);
        }
        for code in Code::ALL {
            assert_eq!(code.id().len(), 6, "{code}");
            assert!(code.id().starts_with(code.group().prefix()), "{code}");
        }
    }

    #[test]
    fn every_code_says_what_why_and_what_next() {
        for code in Code::ALL {
            assert!(!code.title().ends_with('.'), "{code}: a title is no sentence");
            assert!(code.why().ends_with('.'), "{code}");
            assert!(code.next_step().ends_with('.'), "{code}");
        }
    }

    #[test]
    fn ids_read_back_in_either_case_and_nothing_else_does() {
        for code in Code::ALL {
            assert_eq!(code.id().parse(), Ok(*code));
            assert_eq!(code.id().to_lowercase().parse(), Ok(*code));
        }
        assert!("SG9999".parse::<Code>().is_err());
        assert!("".parse::<Code>().is_err());
    }
}

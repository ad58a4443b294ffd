//! A plain client: it builds circuits one after another over a link of its own, and does nothing else, so that what they take can
//! be told from what else a node does. Links, cells, handshakes and layers are the program's.

use bytes::BytesMut;
use onionskin::base::CircuitId;
use onionskin::base::LinkId;
use onionskin::base::NetworkId;
use onionskin::base::NodeId;
use onionskin::base::StreamId;
use onionskin::crypto::cgo::ClientLayers;
use onionskin::crypto::ntor;
use onionskin::node::env::Clock;
use onionskin::node::env::os_rng;
use onionskin::node::inbox::Arrival;
use onionskin::node::inbox::Inbox;
use onionskin::node::link;
use onionskin::node::link::Farewell;
use onionskin::node::link::Order;
use onionskin::node::tcp::TlsTcp;
use onionskin::node::tls::Tls;
use onionskin::node::transport::Transport;
use onionskin::proto::Input;
use onionskin::wire::cell::BODY;
use onionskin::wire::cell::CELL;
use onionskin::wire::cell::Command;
use onionskin::wire::cell::Header;
use onionskin::wire::cell::RelayCommand;
use onionskin::wire::cell::RelayMessage;
use onionskin::wire::codec::Reader;
use onionskin::wire::codec::Writer;
use onionskin::wire::hello::Hello;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::mpsc;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::mpsc::UnboundedSender;

/// The bit that the dialling end sets in its circuit ids.
const DIALLER: u32 = 1 << 31;
/// The circuit handshake of this version.
const HYBRID: u16 = 1;

/// A relay, as descriptors name it: who, and its circuit key.
#[derive(Clone, Copy)]
pub(super) struct Hop {
    pub(super) node: NodeId,
    pub(super) onion: [u8; 32],
}

/// A link to a first hop.
pub(super) struct Client {
    network: NetworkId,
    orders: UnboundedSender<Order>,
    arrivals: UnboundedReceiver<Arrival>,
    /// Cells that came and were not looked at.
    cells: BytesMut,
    circuits: u32,
}

impl Client {
    /// A link that stands: the other end has said who it is.
    pub(super) async fn connect(network: NetworkId, to: SocketAddr) -> Self {
        let transport = TlsTcp::new(Arc::new(Tls::new(Clock::start()).unwrap()));
        let pipe = transport.dial(to, None).await.unwrap();
        let (inbox, arrivals) = Inbox::new();
        let (orders, mut queue) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let farewell = Farewell { link: LinkId(1), inbox };
            link::run(&farewell, pipe, &mut queue, None).await;
        });
        let mut client = Self { network, orders, arrivals, cells: BytesMut::new(), circuits: 0 };
        client.say(None, Command::Hello, &Hello::new(network, None).write());
        while client.next().await.0.command != Command::Hello {}
        client
    }

    fn say(&self, circuit: Option<CircuitId>, command: Command, body: &[u8; BODY]) {
        let mut cell = [0; CELL];
        Header { circuit, command }.write(&mut cell);
        cell[CELL - BODY..].copy_from_slice(body);
        let _ = self.orders.send(Order::Send(BytesMut::from(&cell[..])));
    }

    async fn next(&mut self) -> (Header, Box<[u8; BODY]>) {
        while self.cells.is_empty() {
            match self.arrivals.recv().await {
                Some(Arrival::Cells(Input::Cells { cells, .. }, _)) => self.cells = cells,
                Some(Arrival::Input(Input::Sent { .. })) => {}
                _ => unreachable!("the link ended"),
            }
        }
        let cell = self.cells.split_to(CELL);
        (Header::read(cell.first_chunk().unwrap()).unwrap(), Box::new(*cell.last_chunk().unwrap()))
    }

    async fn answer(&mut self, circuit: CircuitId, command: Command) -> Box<[u8; BODY]> {
        loop {
            let (header, body) = self.next().await;
            if header.circuit == Some(circuit) {
                assert_eq!(header.command, command);
                return body;
            }
        }
    }

    /// Builds a circuit and ends it: how long it took until its last hop stood.
    pub(super) async fn build(&mut self, path: &[Hop]) -> Duration {
        let started = Instant::now();
        self.circuits += 1;
        let id = CircuitId::new(DIALLER | self.circuits).unwrap();
        let shake = |hop: &Hop| ntor::client1(&mut os_rng(), &self.network, &hop.node, &hop.onion).unwrap();
        let shakes: Vec<_> = path.iter().map(shake).collect();
        let mut layers = ClientLayers::<BODY>::new();
        for (i, (state, message)) in shakes.into_iter().enumerate() {
            let mut body = [0; BODY];
            let reply = if i == 0 {
                let mut w = Writer::default();
                w.u16(HYBRID).bytes16(&message);
                body[..w.as_slice().len()].copy_from_slice(w.as_slice());
                self.say(Some(id), Command::Create, &body);
                let body = self.answer(id, Command::Created).await;
                let mut r = Reader::new(&body[..]);
                assert_eq!(r.u16().unwrap(), HYBRID);
                r.bytes16(BODY).unwrap().to_vec()
            } else {
                let data = [path[i].node.as_ref(), &message].concat();
                RelayMessage { command: RelayCommand::Extend, stream: StreamId(0), data: &data }.write(&mut body);
                layers.originate(i - 1, Command::RelayEarly as u8, &mut body);
                self.say(Some(id), Command::RelayEarly, &body);
                let mut body = self.answer(id, Command::Relay).await;
                assert_eq!(layers.receive(Command::Relay as u8, &mut body), Some(i - 1));
                let message = RelayMessage::read(&body).unwrap();
                assert_eq!(message.command, RelayCommand::Extended);
                message.data.to_vec()
            };
            layers.push(&ntor::client2(state, &reply).unwrap());
        }
        let took = started.elapsed();
        self.say(Some(id), Command::Destroy, &[0; BODY]);
        took
    }
}

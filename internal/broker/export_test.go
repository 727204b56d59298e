package broker

// HorizonKnown reports whether first deliveries can be fresh.
func (b *Broker) HorizonKnown() bool {
	h := b.horizon.Load()
	return h != nil && h.Server == b.conn.nc.ConnectedServerId()
}

// Groups reports whether writes are gathered.
func (b *Broker) Groups() bool {
	h := b.horizon.Load()
	return h != nil && h.Always
}
